    // What an invocation writes of a matrix of sums.
    let out_row_of_block = subgroup * 16u + lane / OUT_VECTORS;
    let out_row = first_row + out_row_of_block;
    let out_place = subgroup * SCORES + lane / OUT_VECTORS * SCORE_LINE + lane % OUT_VECTORS;
