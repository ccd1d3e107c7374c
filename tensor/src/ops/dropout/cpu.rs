//! Plain Rust, many random words at a time.

use rayon::prelude::*;

use super::Rule;
use crate::cpu::{CHUNK, PARALLEL_THRESHOLD, cpu};
use crate::error::Result;
use crate::ops::random::RandomKey;
use crate::ops::random::philox::{PhiloxKey, SPAN, words};
use crate::tensor::Tensor;

pub(super) fn dropout(x: &Tensor, rule: Rule, key: RandomKey) -> Result<Tensor> {
    const { assert!(CHUNK.is_multiple_of(SPAN)) };
    let source = x.cpu_slice::<f32>()?;
    let mut out = cpu().scratch::<f32>(source.len());
    let key = PhiloxKey::from(&key);
    let task = |(index, (out, source)): (usize, (&mut [f32], &[f32]))| {
        for (span, (out, source)) in out.chunks_mut(SPAN).zip(source.chunks(SPAN)).enumerate() {
            let words = words(&key, ((index * CHUNK + span * SPAN) / 4) as u32);
            for ((value, &x), word) in out.iter_mut().zip(source).zip(words) {
                let scaled = x * rule.scale;
                *value = if word < rule.threshold { 0.0 } else { scaled };
            }
        }
    };
    if source.len() < PARALLEL_THRESHOLD {
        out.chunks_mut(CHUNK).zip(source.chunks(CHUNK)).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).enumerate().for_each(task);
    }
    Ok(Tensor::from_cpu_vec(*x.shape(), out))
}
