    let low = probabilities(dots_low * (row_scale * scale_low) - shift_low, vec4<u32>(row_limit) < position_low);
    let high = probabilities(dots_high * (row_scale * scale_high) - shift_high, vec4<u32>(row_limit) < position_high);
    factors[factor_place] = vec4<f16>(low * (slopes_low * row_value - delta_low) * key_factor_low);
    factors[factor_place + 1u] = vec4<f16>(high * (slopes_high * row_value - delta_high) * key_factor_high);
    factors[factor_place + 4u * FACTORS] = vec4<f16>(low * value_factor_low);
    factors[factor_place + 4u * FACTORS + 1u] = vec4<f16>(high * value_factor_high);
