//! Folding and mapping rows of contiguous numbers: fixed chunks, several accumulators so that loops vectorise, and
//! the same result for every number of threads.

use rayon::prelude::*;

use super::{CHUNK, PARALLEL_THRESHOLD};

/// Accumulators that a fold keeps side by side: four of the widest vector registers there are, so that the latency of
/// an addition is hidden.
const LANES: usize = 64;

/// Elements folded in f32 before the result joins an f64 total: each accumulator sees 64 of them, which bounds the
/// rounding error of a sum by a few units of the last place of the sum of magnitudes.
const BLOCK: usize = 64 * LANES;

/// Folds `map(inputs[0][i], …, inputs[N − 1][i])` over all `i`. The slices must have equal lengths.
#[inline(always)]
pub(crate) fn fold<const N: usize>(
    inputs: [&[f32]; N],
    identity: f32,
    map: impl Fn([f32; N]) -> f32,
    narrow: impl Fn(f32, f32) -> f32,
    wide: impl Fn(f64, f64) -> f64,
) -> f64 {
    let len = inputs[0].len();
    let mut total = f64::from(identity);
    for start in (0..len).step_by(BLOCK) {
        let block = inputs.map(|values| values[start..len.min(start + BLOCK)].as_chunks::<LANES>());
        let mut lanes = [identity; LANES];
        for chunk in 0..block[0].0.len() {
            let chunks = block.map(|(whole, _)| &whole[chunk]);
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = narrow(*value, map(chunks.map(|chunk| chunk[lane])));
            }
        }
        let tail = block.map(|(_, rest)| rest);
        for (lane, value) in lanes.iter_mut().enumerate().take(tail[0].len()) {
            *value = narrow(*value, map(tail.map(|rest| rest[lane])));
        }
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = lanes.split_at_mut(width);
            low.iter_mut().zip(high).for_each(|(a, b)| *a = narrow(*a, *b));
            width /= 2;
        }
        total = wide(total, f64::from(lanes[0]));
    }
    total
}

/// Σ map(…) over all elements of slices of equal lengths.
#[inline(always)]
pub(crate) fn sum<const N: usize>(inputs: [&[f32]; N], map: impl Fn([f32; N]) -> f32) -> f64 {
    fold(inputs, 0.0, map, |a, b| a + b, |a, b| a + b)
}

/// The largest element; NaN if there is one, −∞ for no elements.
#[inline(always)]
pub(crate) fn maximum(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if (a > b) | a.is_nan() { a } else { b };
    fold([values], f32::NEG_INFINITY, |[x]| x, larger, |a, b| if (a > b) | a.is_nan() { a } else { b }) as f32
}

/// Calls `task(index, chunk)` for each chunk of `chunk` elements (the last may be shorter), in parallel if asked.
pub(crate) fn for_each_chunk<T: Send>(
    values: &mut [T],
    chunk: usize,
    parallel: bool,
    task: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if parallel {
        values.par_chunks_mut(chunk).enumerate().for_each(|(index, values)| task(index, values));
    } else {
        values.chunks_mut(chunk).enumerate().for_each(|(index, values)| task(index, values));
    }
}

/// `[task(0), task(1), …]`, in parallel if asked.
pub(crate) fn map_in_order<T: Send>(count: usize, parallel: bool, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if parallel && count > 1 { (0..count).into_par_iter().map(task).collect() } else { (0..count).map(task).collect() }
}

/// Calls `task(row, values)` for each row of `columns` elements, large matrices in parallel by groups of rows.
/// `columns` must not be 0.
pub(crate) fn for_each_row(values: &mut [f32], columns: usize, task: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let rows_per_task = (CHUNK / columns).max(1);
    let parallel = values.len() >= PARALLEL_THRESHOLD;
    for_each_chunk(values, rows_per_task * columns, parallel, |index, rows| {
        for (row, values) in rows.chunks_mut(columns).enumerate() {
            task(index * rows_per_task + row, values);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_every_length_match_f64() {
        for len in [0, 1, 63, 64, 65, 4095, 4096, 4097, 10_001] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let y: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).cos()).collect();
            let want: f64 = x.iter().zip(&y).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let magnitude: f64 = x.iter().zip(&y).map(|(&a, &b)| f64::from((a * b).abs())).sum();
            let got = sum([&x, &y], |[a, b]| a * b);
            assert!((got - want).abs() <= 5e-7 * magnitude, "{len}: {got} instead of {want}");
        }
    }

    #[test]
    fn maximum_finds_the_last_place_and_nan() {
        let mut x = vec![-3.0; 5000];
        x[4999] = -2.0;
        assert_eq!(maximum(&x), -2.0);
        x[17] = f32::NAN;
        assert!(maximum(&x).is_nan());
        assert_eq!(maximum(&[]), f32::NEG_INFINITY);
    }
}
