
// The first queries that see keys; none sees those beyond the sequence's end.
fn first_to_see(batch: u32, keys: vec4<u32>) -> vec4<u32> {
    let first = keys - min(keys, vec4<u32>(params.query_offset));
    return select(vec4<u32>(0xffffffffu), first, keys < vec4<u32>(params.sequence));
}
