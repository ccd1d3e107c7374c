//! Plain Rust: gather into row-major order, then convert.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::cpu::{CHUNK, cpu, gather_strided};
use crate::dtype::{DType, Element};
use crate::error::{Result, TensorError};
use crate::tensor::Tensor;

pub(super) fn copy(x: &Tensor, dtype: DType) -> Result<Tensor> {
    match (x.dtype(), dtype) {
        (DType::F32, DType::F32) => gather::<f32>(x),
        (DType::F16, DType::F16) => gather::<f16>(x),
        (DType::Bf16, DType::Bf16) => gather::<bf16>(x),
        (DType::U32, DType::U32) => gather::<u32>(x),
        (DType::I32, DType::I32) => gather::<i32>(x),
        (DType::F32, DType::F16) => convert(x, f16::from_f32),
        (DType::F32, DType::Bf16) => convert(x, bf16::from_f32),
        (DType::F32, DType::U32) => convert(x, |v: f32| v as u32),
        (DType::F32, DType::I32) => convert(x, |v: f32| v as i32),
        (DType::F16, DType::F32) => convert(x, f16::to_f32),
        (DType::Bf16, DType::F32) => convert(x, bf16::to_f32),
        (DType::U32, DType::F32) => convert(x, |v: u32| v as f32),
        (DType::I32, DType::F32) => convert(x, |v: i32| v as f32),
        (DType::U32, DType::I32) => convert(x, |v: u32| v as i32),
        (DType::I32, DType::U32) => convert(x, |v: i32| v as u32),
        (DType::U32, DType::F16) => convert(x, |v: u32| f16::from_f32(v as f32)),
        (DType::U32, DType::Bf16) => convert(x, |v: u32| bf16::from_f32(v as f32)),
        (DType::I32, DType::F16) => convert(x, |v: i32| f16::from_f32(v as f32)),
        (DType::I32, DType::Bf16) => convert(x, |v: i32| bf16::from_f32(v as f32)),
        (DType::F16 | DType::Bf16, _) => {
            Err(TensorError::DType { operation: "cast", expected: "f32 as the target".into(), found: dtype })
        }
    }
}

fn gather<T: Element>(x: &Tensor) -> Result<Tensor> {
    let mut out = cpu().scratch::<T>(x.elements());
    gather_strided(x.cpu_storage_slice::<T>()?, &x.layout, &mut out);
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}

fn convert<T: Element, U: Element>(x: &Tensor, function: impl Fn(T) -> U + Sync) -> Result<Tensor> {
    let x = x.contiguous()?;
    let source = x.cpu_slice::<T>()?;
    let mut out = cpu().scratch::<U>(source.len());
    source.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).for_each(|(source, out)| {
        for (value, &x) in out.iter_mut().zip(source) {
            *value = function(x);
        }
    });
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}
