//! Plain Rust, one loop that vectorises.

use rayon::prelude::*;

use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu, math};
use crate::error::Result;
use crate::tensor::Tensor;

pub(super) fn backward(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<(Tensor, Tensor)> {
    let inputs = [gate.cpu_slice::<f32>()?, up.cpu_slice::<f32>()?, upstream.cpu_slice::<f32>()?];
    let shape = *gate.shape();
    let mut for_gate = cpu().scratch::<f32>(shape.elements());
    let mut for_up = cpu().scratch::<f32>(shape.elements());
    if shape.elements() < PARALLEL_THRESHOLD {
        piece(inputs, &mut for_gate, &mut for_up);
    } else {
        for_gate.par_chunks_mut(CHUNK).zip(for_up.par_chunks_mut(CHUNK)).enumerate().for_each(
            |(index, (for_gate, for_up))| {
                let start = index * CHUNK;
                piece(inputs.map(|values| &values[start..start + for_gate.len()]), for_gate, for_up);
            },
        );
    }
    Ok((Tensor::from_cpu_vec(shape, for_gate), Tensor::from_cpu_vec(shape, for_up)))
}

fn piece([gate, up, upstream]: [&[f32]; 3], for_gate: &mut [f32], for_up: &mut [f32]) {
    let inputs = gate.iter().zip(up).zip(upstream);
    for (((&gate, &up), &upstream), (for_gate, for_up)) in inputs.zip(for_gate.iter_mut().zip(for_up)) {
        let s = math::sigmoid(gate);
        *for_gate = upstream * up * (s * (1.0 + gate * (1.0 - s)));
        *for_up = upstream * (gate * s);
    }
}
