    let low = masked(dots_low * (row_scale * scale_low), limit_low < vec4<u32>(row_position));
    let high = masked(dots_high * (row_scale * scale_high), limit_high < vec4<u32>(row_position));
    maximum = max(maximum, largest(max(low, high)));
