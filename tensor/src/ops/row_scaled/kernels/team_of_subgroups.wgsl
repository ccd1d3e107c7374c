var<workgroup> sums: array<f32, 32>;
var<workgroup> largest_of: array<MAXIMA, 32>;

// The sum over a row's team, which is whole subgroups of 32, for the first or the second of its rows.
fn team_sum(value: f32, which: u32, local: u32, lane: u32) -> f32 {
    let found = subgroupAdd(value);
    if (lane % 32u == 0u) {
        sums[16u * which + local / 32u] = found;
    }
    workgroupBarrier();
    let first = 16u * which + (local - lane) / 32u;
    var total = 0.0;
    for (var i = 0u; i < TEAM / 32u; i += 1u) {
        total += sums[first + i];
    }
    return total;
}

// The maximum over a row's team, likewise.
fn team_max(value: MAXIMA, which: u32, local: u32, lane: u32) -> MAXIMA {
    let found = subgroupMax(value);
    if (lane % 32u == 0u) {
        largest_of[16u * which + local / 32u] = found;
    }
    workgroupBarrier();
    let first = 16u * which + (local - lane) / 32u;
    var largest = MAXIMA();
    for (var i = 0u; i < TEAM / 32u; i += 1u) {
        largest = max(largest, largest_of[first + i]);
    }
    return largest;
}

