//! An adapter of one base as an adapter of the next version of it.

use lora::{Adapter, AdapterSet, Base, LoraError, Result};
use tensor::{Device, Tensor};

/// The adapter on a new base of the same modules: the same factors, magnitudes and modules trained as a whole. Where a
/// vocabulary grew, the embedding's columns of A, the output head's rows of B and the rows of a matrix trained as a whole
/// are continued: factors with zeros, so that new tokens keep what the new base says of them, and whole matrices with the
/// new base's own rows.
///
/// # Errors
/// [`LoraError::Target`] and [`LoraError::Setting`] naming a module that the new base lacks or has in a shape that is no
/// continuation, or the device's own errors.
pub fn transfer(adapter: &AdapterSet, base: &Base, device: &Device) -> Result<AdapterSet> {
    let subtracts = adapter.adapters().any(|part| adapter.subtracted_product(&part.module).is_some());
    let adapter = match subtracts {
        true => AdapterSet::combine(&[(adapter, 1.0)], lora::Combination::Concatenation)?,
        false => adapter.clone(),
    };
    let factors = |part: &Adapter| {
        let old = adapter.adapter(&part.module).zip(adapter.factors(&part.module));
        let (old, factors) = old.ok_or_else(|| {
            refused(format!(
                "the new base has the module `{}`, which the adapter's target takes in and the adapter lacks",
                part.module
            ))
        })?;
        if part.inputs < old.inputs || part.outputs < old.outputs || part.embedding != old.embedding {
            return Err(shape_of(part, old));
        }
        let (columns, rows) = (part.inputs - old.inputs, part.outputs - old.outputs);
        if (columns > 0 && !part.embedding) || (rows > 0 && part.embedding) {
            return Err(shape_of(part, old));
        }
        let (a, b) = (factors.a.to_device(device)?, factors.b.to_device(device)?);
        Ok((a.pad(1, 0, columns, 0.0)?.contiguous()?, b.pad(0, 0, rows, 0.0)?.contiguous()?))
    };
    let mut moved = AdapterSet::from_factors(adapter.config().clone(), base, device, factors)?;
    if let Some(lost) = adapter.adapters().find(|part| moved.adapter(&part.module).is_none()) {
        return Err(refused(format!("the adapter adapts `{}`, which the new base lacks", lost.module)));
    }
    for (name, old) in adapter.parameters().iter() {
        let Some(new) = moved.parameters().get(name) else {
            return Err(refused(format!("the adapter holds `{name}`, which the new base lacks")));
        };
        let is_factor = name.contains(".lora_") && !name.ends_with(".lora_magnitude_vector");
        if !is_factor {
            let value = continued(name, old, new)?;
            moved.parameters_mut().insert(name.to_string(), value.to_device(device)?)?;
        }
    }
    Ok(moved)
}

/// `old`, followed by the rows that `new` has more.
fn continued(name: &str, old: &Tensor, new: &Tensor) -> Result<Tensor> {
    let (before, after) = (old.shape(), new.shape());
    if before == after {
        return Ok(old.clone());
    }
    if before.len() != after.len() || before[1..] != after[1..] || after[0] < before[0] {
        return Err(refused(format!("`{name}` is {before} in the adapter and {after} in the new base")));
    }
    let added = new.slice(0, before[0], after[0])?;
    Ok(Tensor::concat(&[&old.to_device(new.device())?, &added], 0)?)
}

fn shape_of(new: &Adapter, old: &Adapter) -> LoraError {
    refused(format!(
        "`{}` maps {} inputs to {} outputs in the adapter, {} to {} in the new base; only a vocabulary may grow",
        new.module, old.inputs, old.outputs, new.inputs, new.outputs
    ))
}

fn refused(message: String) -> LoraError {
    LoraError::Setting { setting: "new base", message }
}
