//! The operations, one folder each: API and shape rules in `mod.rs`, the CPU's version in `cpu.rs`, the kernel in
//! `kernel.wgsl` with its launch in `gpu.rs`, tests in `tests.rs`. To add one, copy a folder and name it here.

mod binary;
mod copy;
mod fill;
mod unary;
