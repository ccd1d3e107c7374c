    let head = group.y;
    let kv_head = head / (params.heads / params.kv_heads);
    // Under a causal mask the last rows have the most to do: they start first.
    let first_row = (params.row_blocks - 1u - group.x) * ROWS;
    let key_end = min(params.sequence, first_row + ROWS + params.query_offset);
    let tiles_in_all = (key_end + COLUMNS - 1u) / COLUMNS;
    let terms = (batch * params.heads + head) * params.sequence;
