    // 16 × 8 invocations. An invocation's rows are lane_row + 16·i, its columns lane_column + 8·j.
    let lane_row = local >> 3u;
    let lane_column = local & 7u;
    let load_slot = lane_row * 9u + lane_column;
    let row_slot = lane_row * 9u;
    let column_slot = lane_column * 9u;
    // Factors are stored as one vector per row and invocation, which puts column c + 8·j at place 4·c + j; the other
    // operand's rows follow.
    let permuted_slot = ((lane_row & 7u) * 4u + (lane_row >> 3u)) * 9u + lane_column;
    let every_column = vec4<u32>(0u, 8u, 16u, 24u) + vec4<u32>(lane_column);
