    let kv_head = group.y;
    let heads_a_group = params.heads / params.kv_heads;
    let first_head = kv_head * heads_a_group;
    // Under a causal mask the first rows have the most to do: they start first.
    let first_row = group.x * ROWS;
    // Queries before this tile see none of the rows.
    let first_tile = (first_row - min(first_row, params.query_offset)) / COLUMNS;
    let tiles_a_head = (params.sequence + COLUMNS - 1u) / COLUMNS - first_tile;
    let tiles_in_all = heads_a_group * tiles_a_head;
