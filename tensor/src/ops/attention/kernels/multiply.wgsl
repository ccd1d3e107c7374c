        // {result} = rows · columnsᵀ over head_dim, 32 elements at a time.
        @rows var {result}$i = vec4<f32>();
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += 32u) {
            workgroupBarrier();
            @rows row_tile[load_slot + $su] = load_{a}({a_base}, {a_first} + lane_row + $tu, chunk + lane_column * 4u);
            @pair column_tile[load_slot + $su] = load_{b}({b_base}, {b_first} + lane_row + $tu, chunk + lane_column * 4u);
            workgroupBarrier();
            for (var step = 0u; step < {steps}; step += 1u) {
                @rows let a$i = row_tile[row_slot + $su + step];
                @four let b$i = column_tile[column_slot + $eu + step];
                let x = vec4<f32>(b0.x, b1.x, b2.x, b3.x);
                @rows {result}$i = fma(vec4<f32>(a$i.x), x, {result}$i);
                let y = vec4<f32>(b0.y, b1.y, b2.y, b3.y);
                @rows {result}$i = fma(vec4<f32>(a$i.y), y, {result}$i);
                let z = vec4<f32>(b0.z, b1.z, b2.z, b3.z);
                @rows {result}$i = fma(vec4<f32>(a$i.z), z, {result}$i);
                let w = vec4<f32>(b0.w, b1.w, b2.w, b3.w);
                @rows {result}$i = fma(vec4<f32>(a$i.w), w, {result}$i);
            }
        }
