struct Params {
m: u32,
n: u32,
k: u32,
row_tiles: u32,
a_offset: u32,
a_stride: u32,
b_offset: u32,
b_stride: u32,
alpha: f32,
accumulate: u32,
out_offset: u32,
out_stride: u32,
first_offset: u32,
second_offset: u32,
// Of the second and third batch axis.
extents: array<u32, 2>,
// Steps along the three batch axes.
a_steps: array<u32, 3>,
b_steps: array<u32, 3>,
out_steps: array<u32, 3>,
first_steps: array<u32, 3>,
second_steps: array<u32, 3>,
}
