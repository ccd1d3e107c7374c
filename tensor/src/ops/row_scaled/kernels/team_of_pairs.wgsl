var<workgroup> sums: array<f32, 1024>;
var<workgroup> largest_of: array<MAXIMA, 1024>;

// The sum over a row's team, for the first or the second of its rows.
fn team_sum(value: f32, which: u32, local: u32, lane: u32) -> f32 {
    let place = 512u * which + local;
    sums[place] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            sums[place] += sums[place + step];
        }
        workgroupBarrier();
    }
    return sums[place - lane];
}

// The maximum over a row's team, likewise.
fn team_max(value: MAXIMA, which: u32, local: u32, lane: u32) -> MAXIMA {
    let place = 512u * which + local;
    largest_of[place] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            largest_of[place] = max(largest_of[place], largest_of[place + step]);
        }
        workgroupBarrier();
    }
    return largest_of[place - lane];
}

