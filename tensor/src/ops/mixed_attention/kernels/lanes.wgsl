    let tokens = batch * params.sequence;
    // An invocation has half a row of a matrix of scores.
    let lane_row = lane / 2u;
    let side = lane % 2u;
    let row_of_block = subgroup * 16u + lane_row;
    let row = first_row + row_of_block;
    let score_place = subgroup * SCORES + lane_row * SCORE_LINE + 2u * side;
    let factor_place = subgroup * FACTORS + lane_row * FACTOR_LINE + 2u * side;
