struct Params {
m: u32,
n: u32,
k: u32,
row_tiles: u32,
column_tiles: u32,
depth_per_part: u32,
a_stride: u32,
b_stride: u32,
// Products, in the first slots.
products: u32,
// for each slot
a_offset_SLOT: u32,
b_offset_SLOT: u32,
first_offset_SLOT: u32,
second_offset_SLOT: u32,
// end
}
