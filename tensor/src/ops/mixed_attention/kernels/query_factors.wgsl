    let low = probabilities(dots_low * (row_scale * scale_low) - row_shift, limit_low < vec4<u32>(row_position));
    let high = probabilities(dots_high * (row_scale * scale_high) - row_shift, limit_high < vec4<u32>(row_position));
    factors[factor_place] = vec4<f16>(low * (slopes_low * value_low - row_delta) * factor_low);
    factors[factor_place + 1u] = vec4<f16>(high * (slopes_high * value_high - row_delta) * factor_high);
