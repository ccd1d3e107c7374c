    // What an invocation writes of a matrix of sums.
    let out_row_of_block = subgroup * 16u + lane / 4u;
    let out_row = first_row + out_row_of_block;
    let out_place = subgroup * SCORES + lane / 4u * SCORE_LINE + lane % 4u;
