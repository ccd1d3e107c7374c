// A container's eight elements times a power of two.
fn weighted(container: vec4<f32>, weight: f32) -> vec4<f32> {
let words = bitcast<vec4<u32>>(container);
let first = pack2x16float(unpack2x16float(words.x) * weight);
let second = pack2x16float(unpack2x16float(words.y) * weight);
let third = pack2x16float(unpack2x16float(words.z) * weight);
let fourth = pack2x16float(unpack2x16float(words.w) * weight);
return bitcast<vec4<f32>>(vec4<u32>(first, second, third, fourth));
}
