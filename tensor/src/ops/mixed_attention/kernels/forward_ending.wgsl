    total += subgroupShuffleXor(total, 1u);
    let sees_any = total > 0.0;
    if (side == 0u) {
        row_results[row_of_block] = select(0.0, 1.0 / (total * PROBABILITY), sees_any);
    }
    if (side == 0u && row < params.sequence) {
        // No constant may hold the bits of -inf.
        var infinity = 0xff800000u;
        log_sum_exp[terms + row] = select(bitcast<f32>(infinity), (maximum + log2(total)) / LOG2_E, sees_any);
        if (head == 0u) {
            output_scales[tokens + row] = value_scale;
        }
    }
