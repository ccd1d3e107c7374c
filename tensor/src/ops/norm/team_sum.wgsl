
var<workgroup> scratch: array<vec2<f32>, 256>;

// The sum over a row's team.
fn team_sum(value: vec2<f32>, local: u32, lane: u32) -> vec2<f32> {
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
