    let largest_scale = largest_scales(local, subgroup, lane, tokens);
    let row_position = row + 1u;
    let row_scale = q_scales[tokens + last_of(row)] * params.scale * LOG2_E;
    let value_scale = largest_scale.x;
    let value_inverse = inverse(value_scale);
    var maximum = LOWEST;
    var total = 0.0;
