//! Helpers for tests of this crate and the crates above it: the devices under test, random tensors that may be views,
//! comparison with f64 references.

use std::ops::{Range, RangeInclusive};
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{Device, DeviceRequest, Result, Shape, Tensor};

/// The GPU that tests run on, opened once per process; see [`open_gpu`].
///
/// # Panics
/// As [`open_gpu`].
pub fn gpu() -> &'static Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(open_gpu)
}

/// A device of the test's own, for what would concern all that share [`gpu`]: the adapter named by `TENSOR_TEST_ADAPTER` (a
/// request as `--device` takes it), else the first adapter of any kind, software included.
///
/// # Panics
/// When there is none: tests that need one are only built to run with the feature `gpu-tests`.
pub fn open_gpu() -> Device {
    let request = std::env::var("TENSOR_TEST_ADAPTER").unwrap_or_else(|_| "gpu:0".into());
    let request: DeviceRequest = request.parse().expect("TENSOR_TEST_ADAPTER is a device request");
    Device::open(&request).expect("the feature gpu-tests needs a GPU adapter, for instance lavapipe")
}

/// Defines each test twice: `NAME::cpu`, and `NAME::wgsl`, which is listed as ignored without the feature
/// `gpu-tests` of the crate under test.
#[macro_export]
macro_rules! on_each_backend {
    ($($(#[$meta:meta])* fn $name:ident($device:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$meta])*
            fn body($device: &$crate::Device) $body

            #[test]
            fn cpu() {
                body(&$crate::Device::cpu());
            }

            #[test]
            #[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
            fn wgsl() {
                body($crate::testing::gpu());
            }
        }
    )*};
}
pub use crate::on_each_backend;

/// Runs a property over random cases; `PROPTEST_CASES` sets how many (default 48: lavapipe is slow).
///
/// # Panics
/// When the property fails, with the smallest failing case found.
pub fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> Result<()>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    // The same cases every time: a failure on one machine is a failure on all.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let outcome = runner.run(&strategy, |case| property(case).map_err(|error| TestCaseError::fail(error.to_string())));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// How to make a tensor, possibly as a view into a larger one: logical values plus the way they are stored.
#[derive(Clone, Debug)]
pub struct Recipe {
    shape: Vec<usize>,
    values: Vec<f32>,
    /// Storage order of the axes.
    order: Vec<usize>,
    /// Elements before and after the used range of each axis in storage.
    margins: Vec<(usize, usize)>,
}

impl Recipe {
    /// A contiguous tensor of these values.
    pub fn dense(shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let order = (0..shape.len()).collect();
        Recipe { shape: shape.to_vec(), values, order, margins: vec![(0, 0); shape.len()] }
    }

    /// The logical shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The logical values in row-major order, as the tensor holds them (rounded to f32).
    pub fn values(&self) -> Vec<f64> {
        self.values.iter().map(|&x| f64::from(x)).collect()
    }

    /// The same recipe with every value changed.
    pub fn map(mut self, function: impl Fn(f32) -> f32) -> Self {
        self.values.iter_mut().for_each(|x| *x = function(*x));
        self
    }

    /// The tensor: storage in its own axis order with margins of NaN, seen through slices and a permutation.
    ///
    /// # Panics
    /// When the device fails.
    pub fn build(&self, device: &Device) -> Tensor {
        let stored: Vec<usize> =
            self.order.iter().map(|&axis| self.shape[axis] + self.margins[axis].0 + self.margins[axis].1).collect();
        let mut storage = vec![f32::NAN; stored.iter().product()];
        let mut index = vec![0; self.shape.len()];
        for &value in &self.values {
            let position = self
                .order
                .iter()
                .zip(&stored)
                .fold(0, |position, (&axis, extent)| position * extent + index[axis] + self.margins[axis].0);
            storage[position] = value;
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        let mut tensor = Tensor::from_vec(device, &stored, storage).expect("storage of the test tensor");
        for (place, &axis) in self.order.iter().enumerate() {
            let start = self.margins[axis].0;
            tensor = tensor.slice(place, start, start + self.shape[axis]).expect("slice of the test tensor");
        }
        let back: Vec<usize> =
            (0..self.shape.len()).map(|axis| self.order.iter().position(|&a| a == axis).unwrap_or(axis)).collect();
        tensor.permute(&back).expect("order of the test tensor")
    }
}

/// A random recipe with the given rank, extents and value range: half of them contiguous, half views with permuted
/// axes and margins.
pub fn recipe(
    rank: RangeInclusive<usize>,
    extents: RangeInclusive<usize>,
    values: Range<f32>,
) -> impl Strategy<Value = Recipe> {
    prop::collection::vec(extents, rank).prop_flat_map(move |shape| recipe_of(shape, values.clone()))
}

/// A random recipe of one shape.
pub fn recipe_of(shape: Vec<usize>, values: Range<f32>) -> impl Strategy<Value = Recipe> {
    let rank = shape.len();
    let count = shape.iter().product::<usize>();
    (
        prop::collection::vec(values, count),
        Just((0..rank).collect::<Vec<_>>()).prop_shuffle(),
        prop::collection::vec((0usize..3, 0usize..3), rank),
        any::<bool>(),
    )
        .prop_map(move |(values, order, margins, view)| {
            if view { Recipe { shape: shape.clone(), values, order, margins } } else { Recipe::dense(&shape, values) }
        })
}

/// Two recipes whose shapes broadcast: of the common shape, each loses leading axes or has axes set to 1 at random.
pub fn recipe_pair(
    rank: RangeInclusive<usize>,
    extents: RangeInclusive<usize>,
    values: Range<f32>,
) -> impl Strategy<Value = (Recipe, Recipe)> {
    let shapes = prop::collection::vec((extents, 0u8..4), rank).prop_flat_map(|axes| {
        let common: Vec<usize> = axes.iter().map(|(extent, _)| *extent).collect();
        let thinned = |which: u8| -> Vec<usize> {
            axes.iter().map(|&(extent, choice)| if choice == which { 1 } else { extent }).collect()
        };
        let (left, right) = (thinned(2), thinned(3));
        (Just(left), Just(right), 0..=common.len(), any::<bool>())
    });
    shapes.prop_flat_map(move |(mut left, mut right, lost, which)| {
        let shorter = if which { &mut left } else { &mut right };
        shorter.drain(..lost);
        (recipe_of(left, values.clone()), recipe_of(right, values.clone()))
    })
}

/// The broadcast shape of two recipes and the pairs of their values at every element of it.
///
/// # Panics
/// When the shapes do not broadcast.
pub fn broadcast_values(a: &Recipe, b: &Recipe) -> (Vec<usize>, Vec<(f64, f64)>) {
    let as_shape = |recipe: &Recipe| Shape::new(&recipe.shape).expect("a test shape");
    let shape = Shape::broadcast("test", &as_shape(a), &as_shape(b)).expect("test shapes broadcast");
    let (a_values, b_values) = (a.values(), b.values());
    let pick = |recipe: &Recipe, values: &[f64], index: &[usize]| {
        let lead = index.len() - recipe.shape.len();
        let position =
            recipe.shape.iter().enumerate().fold(0, |position, (axis, &extent)| {
                position * extent + if extent == 1 { 0 } else { index[lead + axis] }
            });
        values[position]
    };
    let mut index = vec![0; shape.rank()];
    let pairs = (0..shape.elements())
        .map(|_| {
            let pair = (pick(a, &a_values, &index), pick(b, &b_values, &index));
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            pair
        })
        .collect();
    (shape.to_vec(), pairs)
}

/// Checks shape and values: |got − want| ≤ absolute + relative·|want|; NaN only equals NaN.
///
/// # Errors
/// The device's errors while reading the tensor.
///
/// # Panics
/// With the first element that differs.
pub fn assert_close(
    what: &str,
    got: &Tensor,
    shape: &[usize],
    want: &[f64],
    relative: f64,
    absolute: f64,
) -> Result<()> {
    assert_eq!(got.shape()[..], *shape, "{what}: shape");
    for (index, (got, &want)) in got.to_vec::<f32>()?.into_iter().zip(want).enumerate() {
        let got = f64::from(got);
        let close = (got - want).abs() <= absolute + relative * want.abs();
        assert!(close || got == want || got.is_nan() && want.is_nan(), "{what}[{index}]: {got} instead of {want}");
    }
    Ok(())
}
