var<workgroup> sums: array<f32, 256>;
var<workgroup> largest_of: array<MAXIMA, 256>;

// The sum over a row's team.
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    sums[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var total = sums[local];
            for (var other = lane + step; other < width; other += step) {
                total += sums[local + other - lane];
            }
            sums[local] = total;
        }
        workgroupBarrier();
    }
    return sums[local - lane];
}

// The maximum over a row's team.
fn team_max(value: MAXIMA, local: u32, lane: u32) -> MAXIMA {
    largest_of[local] = value;
    workgroupBarrier();
    for (var width = TEAM; width > 1u; width = max(width / 4u, 1u)) {
        let step = max(width / 4u, 1u);
        if (lane < step) {
            var largest = largest_of[local];
            for (var other = lane + step; other < width; other += step) {
                largest = max(largest, largest_of[local + other - lane]);
            }
            largest_of[local] = largest;
        }
        workgroupBarrier();
    }
    return largest_of[local - lane];
}

