    if (side == 0u) {
        row_results[row_of_block] = params.scale / SLOPE * upstream_scale * value_scale * query_scale;
        row_results[ROWS + row_of_block] = upstream_scale / PROBABILITY;
    }
