//! Launches: `norms.wgsl` for many factors a dispatch, then `scale.wgsl`.

use super::{BalanceTarget, LARGEST_EXPONENT, NAME};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::ops::slots;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Slots of one dispatch: a word has two bits for each.
pub(super) const SLOTS: usize = 16;

/// Elements that one workgroup treats.
const BLOCK: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct NormParams {
    first: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct ScaleParams {
    first: u32,
    moments: u32,
}

pub(super) fn norms_wgsl(slots: usize) -> String {
    slots::expand_with_table(include_str!("norms.wgsl"), slots)
}

pub(super) fn scale_wgsl(slots: usize) -> String {
    slots::expand_with_table(include_str!("scale.wgsl"), slots)
}

/// `targets` are A and B of each pair in turn; their storage is unique and starts at offset 0.
pub(super) fn balance(gpu: &Gpu, targets: &[&mut BalanceTarget<'_>]) -> Result<()> {
    let device = targets[0].factor.device();
    let (mut lines, mut groups, mut group) = (Vec::new(), Vec::new(), 0);
    for target in targets {
        let elements = target.factor.elements();
        groups.push(group);
        lines.extend([elements as u32, group as u32]);
        group += elements.div_ceil(BLOCK);
    }
    groups.push(group);
    lines.extend([0, group as u32]);
    if group == 0 {
        return Ok(());
    }
    let table = Tensor::from_vec(device, &[lines.len()], lines)?;
    let records = Tensor::uninitialised(device, NAME, Shape::new(&[2 * group])?, DType::F32)?;
    let capacity = |per_slot: usize| slots::capacity_up_to(gpu, per_slot, 2, SLOTS);
    for first in (0..targets.len()).step_by(capacity(1)) {
        let last = (first + capacity(1)).min(targets.len());
        let slots = last - first;
        let source = move || norms_wgsl(slots);
        let mut dispatch = Dispatch::new(format!("balance_norms_{slots}"), "main", Source::Generated(&source))
            .read(&table)
            .write(&records);
        for target in &targets[first..last] {
            dispatch = dispatch.write(target.factor);
        }
        dispatch.params(&NormParams { first: first as u32 }).run(gpu, linear_grid(groups[last] - groups[first], 1))?;
    }
    for first in (0..targets.len()).step_by(capacity(3)) {
        let last = (first + capacity(3)).min(targets.len());
        scale(gpu, &targets[first..last], first, [&table, &records], groups[last] - groups[first])?;
    }
    Ok(())
}

fn scale(
    gpu: &Gpu,
    targets: &[&mut BalanceTarget<'_>],
    first: usize,
    [table, records]: [&Tensor; 2],
    groups: usize,
) -> Result<()> {
    let slots = targets.len();
    let source = move || scale_wgsl(slots);
    let moments_of = |target: &BalanceTarget<'_>| [target.first_moment.is_some(), target.second_moment.is_some()];
    // What is bound where a moment is absent; the kernel leaves it alone.
    let missing = targets.iter().flat_map(|target| moments_of(target)).filter(|present| !present).count();
    let absent: Vec<Tensor> = (0..missing)
        .map(|_| Tensor::uninitialised(table.device(), NAME, Shape::new(&[1])?, DType::F32))
        .collect::<Result<_>>()?;
    let mut absent = absent.iter();
    let mut moments = 0;
    let mut dispatch = Dispatch::new(format!("balance_scale_{slots}"), "main", Source::Generated(&source))
        .constant("LARGEST_EXPONENT", f64::from(LARGEST_EXPONENT))
        .read(table)
        .read(records);
    for (slot, target) in targets.iter().enumerate() {
        dispatch = dispatch.write(target.factor);
        let both = [target.first_moment.as_deref(), target.second_moment.as_deref()];
        for (kind, moment) in both.into_iter().enumerate() {
            moments |= u32::from(moment.is_some()) << (SLOTS * kind + slot);
            if let Some(bound) = moment.or_else(|| absent.next()) {
                dispatch = dispatch.write(bound);
            }
        }
    }
    dispatch.params(&ScaleParams { first: first as u32, moments }).run(gpu, linear_grid(groups, 1))
}
