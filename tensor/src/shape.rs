//! Shapes, strides and the arithmetic on them: broadcasting, merging of axes, row-major indexing.
//! Nothing here touches memory.

use std::fmt;
use std::ops::Deref;

use crate::error::{Result, TensorError};

/// The largest number of axes a tensor may have; kernels carry shapes of this fixed length.
pub const MAX_RANK: usize = 6;

/// The extents of a tensor's axes, outermost first. At most [`MAX_RANK`] axes; a scalar has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape from its extents.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for more than [`MAX_RANK`] axes or more elements than `usize` counts.
    pub fn new(extents: &[usize]) -> Result<Self> {
        if extents.len() > MAX_RANK {
            return Err(TensorError::InvalidArgument {
                operation: "shape",
                message: format!("{extents:?} has {} axes; at most {MAX_RANK} are supported", extents.len()),
            });
        }
        let bytes = extents.iter().filter(|&&extent| extent != 0).try_fold(8usize, |a, &b| a.checked_mul(b));
        if bytes.is_none() {
            return Err(TensorError::InvalidArgument {
                operation: "shape",
                message: format!("{extents:?} has more elements than this machine can address"),
            });
        }
        let mut shape = Shape { extents: [1; MAX_RANK], rank: extents.len() as u8 };
        shape.extents[..extents.len()].copy_from_slice(extents);
        Ok(shape)
    }

    /// The shape of a scalar: no axes, one element.
    pub const fn scalar() -> Self {
        Shape { extents: [1; MAX_RANK], rank: 0 }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// Number of elements: the product of the extents; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// Row-major strides, in elements.
    pub(crate) fn contiguous_strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.extents[axis].max(1);
        }
        strides
    }

    /// The same shape with one extent replaced.
    pub(crate) fn with_extent(mut self, axis: usize, extent: usize) -> Self {
        self.extents[axis] = extent;
        self
    }

    /// The same shape without one axis.
    pub(crate) fn without_axis(self, axis: usize) -> Self {
        let mut shape = Shape { extents: [1; MAX_RANK], rank: self.rank - 1 };
        let kept = self.iter().enumerate().filter(|&(index, _)| index != axis).map(|(_, &extent)| extent);
        for (slot, extent) in shape.extents.iter_mut().zip(kept) {
            *slot = extent;
        }
        shape
    }

    /// The shape that two shapes broadcast to: aligned at the last axis, extents equal or one of them 1.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] when an axis differs and neither extent is 1.
    pub fn broadcast(operation: &'static str, left: &Shape, right: &Shape) -> Result<Shape> {
        let rank = left.rank().max(right.rank());
        let mut out = Shape { extents: [1; MAX_RANK], rank: rank as u8 };
        for back in 1..=rank {
            let extent = |shape: &Shape| if back <= shape.rank() { shape[shape.rank() - back] } else { 1 };
            out.extents[rank - back] = match (extent(left), extent(right)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Err(TensorError::Broadcast { operation, left: *left, right: *right }),
            };
        }
        Ok(out)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.extents[..usize::from(self.rank)]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self[..], f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self[..], f)
    }
}

impl PartialEq<[usize]> for Shape {
    fn eq(&self, other: &[usize]) -> bool {
        self[..] == *other
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        self[..] == other[..]
    }
}

/// Where the elements of a tensor lie in its storage: `offset + Σ index[axis]·strides[axis]`.
/// Strides are never negative; a broadcast axis has stride 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub shape: Shape,
    pub strides: [usize; MAX_RANK],
    pub offset: usize,
}

impl Layout {
    pub fn contiguous(shape: Shape) -> Self {
        Layout { shape, strides: shape.contiguous_strides(), offset: 0 }
    }

    /// True when the elements lie side by side in row-major order (from `offset` on).
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for axis in (0..self.shape.rank()).rev() {
            let extent = self.shape[axis];
            if extent == 0 {
                return true;
            }
            if extent != 1 {
                if self.strides[axis] != expected {
                    return false;
                }
                expected *= extent;
            }
        }
        true
    }

    /// This layout seen with the larger `shape`; axes that grow get stride 0. The caller has checked the shapes.
    pub fn broadcast_to(&self, shape: &Shape) -> Layout {
        let lead = shape.rank() - self.shape.rank();
        let mut strides = [0; MAX_RANK];
        for axis in 0..self.shape.rank() {
            strides[lead + axis] = if self.shape[axis] == shape[lead + axis] { self.strides[axis] } else { 0 };
        }
        Layout { shape: *shape, strides, offset: self.offset }
    }

    /// Strides for `shape` without moving data, or `None` where a copy is needed.
    pub fn reshape(&self, shape: Shape) -> Option<Layout> {
        if self.is_contiguous() {
            return Some(Layout { shape, strides: shape.contiguous_strides(), offset: self.offset });
        }
        // Walk groups of old axes that are contiguous among themselves and split them into the new extents.
        let old: Vec<(usize, usize)> =
            self.shape.iter().zip(&self.strides).filter(|(extent, _)| **extent != 1).map(|(&e, &s)| (e, s)).collect();
        let mut strides = [0; MAX_RANK];
        let (mut old_axis, mut new_axis) = (0, 0);
        while new_axis < shape.rank() {
            if shape[new_axis] == 1 {
                new_axis += 1;
                continue;
            }
            let (mut have, first_old) = (old.get(old_axis)?.0, old_axis);
            let (mut want, first_new) = (shape[new_axis], new_axis);
            while have != want {
                if have < want {
                    old_axis += 1;
                    have *= old.get(old_axis)?.0;
                } else {
                    new_axis += 1;
                    want *= *shape.get(new_axis)?;
                }
            }
            if (first_old..old_axis).any(|a| old[a].1 != old[a + 1].0 * old[a + 1].1) {
                return None;
            }
            let mut step = old[old_axis].1;
            for axis in (first_new..=new_axis).rev() {
                strides[axis] = step;
                step *= shape[axis];
            }
            old_axis += 1;
            new_axis += 1;
        }
        Some(Layout { shape, strides, offset: self.offset })
    }
}

/// Merges neighbouring axes that are contiguous in every one of `layouts` (which share a shape) and drops axes
/// of extent 1, so that loops and kernels see as few axes as possible. Returns the merged extents and strides.
pub(crate) fn merge_axes<const N: usize>(layouts: [&Layout; N]) -> (Vec<usize>, Vec<[usize; N]>) {
    let shape = layouts[0].shape;
    let mut extents: Vec<usize> = Vec::with_capacity(shape.rank());
    let mut strides: Vec<[usize; N]> = Vec::with_capacity(shape.rank());
    for axis in 0..shape.rank() {
        let extent = shape[axis];
        if extent == 1 {
            continue;
        }
        let here: [usize; N] = std::array::from_fn(|i| layouts[i].strides[axis]);
        if let (Some(last_extent), Some(last)) = (extents.last_mut(), strides.last_mut())
            && (0..N).all(|i| last[i] == here[i] * extent)
        {
            *last_extent *= extent;
            *last = here;
            continue;
        }
        extents.push(extent);
        strides.push(here);
    }
    (extents, strides)
}
