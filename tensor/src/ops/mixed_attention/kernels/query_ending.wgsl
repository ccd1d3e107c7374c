    if (side == 0u) {
        let upstream_scale = upstream_scales[tokens + last_of(row)];
        row_results[row_of_block] = params.scale / SLOPE * upstream_scale * value_scale * key_scale;
    }
