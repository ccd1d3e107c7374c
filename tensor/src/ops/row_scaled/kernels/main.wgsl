
@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let lane = local % TEAM;
    let place = (group.y * groups.x + group.x) * (256u / TEAM) + local / TEAM;
    // Teams without a row compute the last one and write nothing.
    let present = place < params.rows;
    let row = min(place, params.rows - 1u);
