    let low = probabilities(dots_low * (row_scale * scale_low) - maximum, limit_low < vec4<u32>(row_position));
    let high = probabilities(dots_high * (row_scale * scale_high) - maximum, limit_high < vec4<u32>(row_position));
    total += total_of(low + high);
    factors[factor_place] = vec4<f16>(low * factor_low);
    factors[factor_place + 1u] = vec4<f16>(high * factor_high);
