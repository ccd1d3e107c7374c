

@compute @workgroup_size(512)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let lane = local % TEAM;
    let place = (group.y * groups.x + group.x) * (512u / TEAM) + local / TEAM;
    // Teams without rows compute the last two and write nothing.
    let present = 2u * place < params.rows;
    let row_upper = min(2u * place, params.rows - 2u);
    let row_lower = row_upper + 1u;
