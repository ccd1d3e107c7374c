
// The first queries that see keys; none sees those that the mask hides or that are beyond the sequence's end.
fn first_to_see(batch: u32, keys: vec4<u32>) -> vec4<u32> {
    let row = params.mask_offset + batch * params.mask_batch;
    let places = row + min(keys, vec4<u32>(params.sequence - 1u)) * params.mask_key;
    let mask = vec4<u32>(key_mask[places.x], key_mask[places.y], key_mask[places.z], key_mask[places.w]);
    let first = keys - min(keys, vec4<u32>(params.query_offset));
    let is_there = keys < vec4<u32>(params.sequence);
    return select(vec4<u32>(0xffffffffu), first, is_there & (mask != vec4<u32>()));
}
