//! Launches of `factor.wgsl`, several factors each.

use super::super::row_scaled::EXPONENTS;
use super::{PaddedFactor, RoundedValues};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, RIGHT_CHUNK, Source, Tiles};
use crate::ops::slots;
use crate::shape::Shape;
use crate::tensor::Tensor;

const NAME: &str = "rounded_factor";

/// Factors that one launch takes at the most: what describes them must fit the parameter block.
const SLOTS: usize = 6;

/// Workgroups that look for a factor's largest magnitude at most, one result each, and that round it.
const MAXIMA: usize = 128;

/// Elements that a workgroup looks at, or writes, at the least.
const SHARE: usize = 1024;

/// Elements of a factor up to which every workgroup looks at all of them, which may save a launch.
const SMALL: usize = 8192;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    offsets: [u32; SLOTS],
    rows: [u32; SLOTS],
    columns: [u32; SLOTS],
    padded_columns: [u32; SLOTS],
    words: [u32; SLOTS],
    lowest: i32,
    highest: i32,
}

impl Params {
    fn of(factors: &[PaddedFactor]) -> Self {
        let each = |value: &dyn Fn(&PaddedFactor) -> usize| {
            let mut values = [0; SLOTS];
            values.iter_mut().zip(factors).for_each(|(slot, factor)| *slot = value(factor) as u32);
            values
        };
        Params {
            offsets: each(&|factor| factor.x.layout.offset),
            rows: each(&|factor| factor.x.shape()[0]),
            columns: each(&|factor| factor.x.shape()[1]),
            padded_columns: each(&|factor| factor.shape[1]),
            words: each(&PaddedFactor::words),
            lowest: EXPONENTS[0],
            highest: EXPONENTS[1],
        }
    }
}

impl PaddedFactor {
    /// 32-bit words of the result. A factor with an odd width begins its rows within words.
    fn words(&self) -> usize {
        self.shape.elements().div_ceil(2)
    }

    /// Whether it fills tiles as operands of thin products.
    fn suits_tiles(&self) -> bool {
        self.shape.iter().all(|extent| extent.is_multiple_of(Tiles::OPERAND[0]))
    }
}

/// See [`super::round_factors`].
pub(super) fn round_factors(gpu: &Gpu, factors: &[PaddedFactor]) -> Result<Vec<RoundedValues>> {
    let in_tiles = gpu.cooperative.direct_usable() && factors.iter().all(PaddedFactor::suits_tiles);
    let sizes: Vec<usize> = factors.iter().map(|factor| factor.shape.elements()).collect();
    let mut rounded = Vec::with_capacity(factors.len());
    for run in slots::runs(&sizes, slots::capacity_up_to(gpu, if in_tiles { 4 } else { 3 }, 1, SLOTS)) {
        rounded.extend(round_together(gpu, &factors[run], in_tiles)?);
    }
    Ok(rounded)
}

/// The text for so many factors.
pub(super) fn text(slots: usize, in_tiles: bool) -> String {
    let first = (3 * slots + 1).to_string();
    let template = include_str!("factor.wgsl").lines().filter(|line| in_tiles || !line.starts_with("IN_TILES"));
    let template: String = template.map(|line| line.trim_start_matches("IN_TILES").to_string() + "\n").collect();
    slots::expand(&template, slots).replace("FIRST_IN_TILES", &first) + if in_tiles { RIGHT_CHUNK } else { "" }
}

/// [`round_factors`] of no more than a launch takes; `in_tiles`, if all suit, as well.
pub(super) fn round_together(gpu: &Gpu, factors: &[PaddedFactor], in_tiles: bool) -> Result<Vec<RoundedValues>> {
    let device = factors[0].x.device();
    let outputs = factors.iter().map(|factor| {
        let values = || Tensor::uninitialised(device, NAME, factor.shape, DType::F16);
        Ok(RoundedValues {
            values: values()?,
            in_tiles: in_tiles.then(values).transpose()?,
            scale: Tensor::uninitialised(device, NAME, Shape::new(&[1])?, DType::F32)?,
        })
    });
    let outputs: Vec<RoundedValues> = outputs.collect::<Result<_>>()?;
    let maxima = Tensor::uninitialised(device, NAME, Shape::new(&[factors.len() * MAXIMA])?, DType::U32)?;
    let slots = factors.len();
    let source = move || text(slots, in_tiles);
    let params = Params::of(factors);
    let largest = factors.iter().map(|factor| factor.x.elements()).max().unwrap_or(0);
    let words = factors.iter().map(PaddedFactor::words).max().unwrap_or(0);
    let launches = [
        ("factor_maxima", "find_maxima", if largest > SMALL { largest.div_ceil(SHARE) } else { 0 }),
        ("factor_round", "round", words.div_ceil(SHARE / 2)),
    ];
    for (name, entry, groups) in launches.into_iter().filter(|&(.., groups)| groups > 0) {
        let name = format!("{name}_{slots}{}", if in_tiles { "_tiles" } else { "" });
        let mut dispatch = Dispatch::new(name, entry, Source::Generated(&source)).write(&maxima);
        for (factor, RoundedValues { values, scale, .. }) in factors.iter().zip(&outputs) {
            dispatch = dispatch.read(&factor.x).write(values).write(scale);
        }
        for tiles in outputs.iter().filter_map(|output| output.in_tiles.as_ref()) {
            dispatch = dispatch.write_tiles(tiles, Tiles::Right(tiles.shape()[1]));
        }
        for (constant, value) in [("MAXIMA", MAXIMA), ("SHARE", SHARE), ("SMALL", SMALL)] {
            dispatch = dispatch.constant(constant, value as f64);
        }
        dispatch.params(&params).run(gpu, [groups.min(MAXIMA) as u32, slots as u32, 1])?;
    }
    Ok(outputs)
}
