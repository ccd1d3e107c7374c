        // {result}{chunk} += row_tile · columns, elements {column} to {column} + 31 of the head.
        @pair column_tile[permuted_slot + $pu] = load_{b}({b_base}, {b_first} + lane_row + $tu, {column}u + lane_column * 4u);
        workgroupBarrier();
        for (var step = 0u; step < 8u; step += 1u) {
            @rows let a$i = row_tile[row_slot + $su + step];
            @four let b$i = column_tile[step * 36u + $nu + lane_column];
            @rows {result}{chunk}_$i = fma(vec4<f32>(a$i.x), b0, {result}{chunk}_$i);
            @rows {result}{chunk}_$i = fma(vec4<f32>(a$i.y), b1, {result}{chunk}_$i);
            @rows {result}{chunk}_$i = fma(vec4<f32>(a$i.z), b2, {result}{chunk}_$i);
            @rows {result}{chunk}_$i = fma(vec4<f32>(a$i.w), b3, {result}{chunk}_$i);
        }
