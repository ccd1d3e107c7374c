
fn team_sum(value: f32, local: u32, lane: u32) -> f32 {
    workgroupBarrier();
    scratch[local] = value;
    workgroupBarrier();
    for (var step = TEAM / 2u; step > 0u; step /= 2u) {
        if (lane < step) {
            scratch[local] += scratch[local + step];
        }
        workgroupBarrier();
    }
    return scratch[local - lane];
}
