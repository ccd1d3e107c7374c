
// For kernels that have slots with tensors `x_SLOT` and a table of lines: put after gram.wgsl and multiply.wgsl, part of
// their templates. Their grids are workgroups of a slot by slots.

fn of_line(line: u32, field: u32) -> u32 {
    return table[line * LINE + field];
}

// The number of a workgroup among those of all lines; a number of the next line for those that are too many. Where x has
// no room for all of a slot's, z has the rest.
fn number_of(line: u32, group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return of_line(line, GROUP) + group.z * groups.x + group.x;
}

// The first `count` of four elements, then zeros.
fn fetch(slot: u32, start: u32, step: u32, count: u32) -> vec4<f32> {
    var values = vec4<f32>();
    switch (slot) {
        // for each slot
        case SLOTu: {
            let first = params.offsets[SLOT] + start;
            if (count > 0u) { values.x = x_SLOT[first]; }
            if (count > 1u) { values.y = x_SLOT[first + step]; }
            if (count > 2u) { values.z = x_SLOT[first + 2u * step]; }
            if (count > 3u) { values.w = x_SLOT[first + 3u * step]; }
        }
        // end
        default: {}
    }
    return values;
}
