//! Folding adapters into weights, and taking them out again.

use tensor::{DType, Tensor};

use crate::adapter::Factors;
use crate::adapter_set::AdapterSet;
use crate::error::{LoraError, Result};

impl AdapterSet {
    /// `W + s·B·A` for the module's adapter (less an initial product that is subtracted, and scaled to the trained lengths
    /// of rows, or of an embedding's columns, for DoRA), summed in f32 and rounded once to the weight's own type; the trained weight,
    /// rounded to the type of the frozen one, where the module is trained as a whole; else the weight itself.
    ///
    /// # Errors
    /// [`LoraError::NotFinite`] naming the module when the result holds NaN or infinity (a factor that does, or an f16
    /// weight that overflows); [`LoraError::Tensor`] for a weight of another shape.
    pub fn merge(&self, module: &str, weight: &Tensor) -> Result<Tensor> {
        let name = format!("{module}.weight");
        if self.whole_parameter(&name).is_some() {
            return self.merge_parameter(&name, weight);
        }
        self.shifted(module, weight, 1.0)
    }

    /// The trained copy of the parameter `name` (`<module>.weight`, `<module>.bias`), rounded to the type of the frozen
    /// one; `frozen` itself where its module is not trained as a whole.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn merge_parameter(&self, name: &str, frozen: &Tensor) -> Result<Tensor> {
        Ok(self.rounded_parameter(name, frozen.dtype())?.unwrap_or_else(|| frozen.clone()))
    }

    /// The trained copy of the parameter `name` in this element type; `None` where it is not trained as a whole.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`].
    pub fn rounded_parameter(&self, name: &str, dtype: DType) -> Result<Option<Tensor>> {
        let trained = self.whole_parameter(name);
        trained.map(|trained| finite(name, "the trained parameter", trained.cast(dtype)?)).transpose()
    }

    /// `W − s·B·A`: undoes [`AdapterSet::merge`] of an adapter up to rounding. To get the base back bit for bit, keep it;
    /// there is no other way where a module is trained as a whole.
    ///
    /// # Errors
    /// As [`AdapterSet::merge`]; and [`LoraError::Setting`] for DoRA, whose merged weight no longer says how long the rows
    /// were.
    pub fn unmerge(&self, module: &str, weight: &Tensor) -> Result<Tensor> {
        if self.adapter(module).is_some_and(|adapter| adapter.magnitude.is_some()) {
            let message = "a merged DoRA adapter cannot be taken out again; keep the base".into();
            return Err(LoraError::Setting { setting: "use_dora", message });
        }
        self.shifted(module, weight, -1.0)
    }

    fn shifted(&self, module: &str, weight: &Tensor, sign: f32) -> Result<Tensor> {
        let (Some(adapter), Some(factors)) = (self.adapter(module), self.factors(module)) else {
            return Ok(weight.clone());
        };
        let scaling = sign * factors.scaling;
        // An embedding's weight is [inputs, outputs], so its update is (B·A)ᵀ.
        let add = |sum: Tensor, Factors { a, b, .. }: Factors<'_>, scaling: f32| match adapter.embedding {
            false => sum.matmul_accumulate(b, a, scaling),
            true => sum.matmul_accumulate(&a.t()?, &b.t()?, scaling),
        };
        let mut sum = add(weight.cast(DType::F32)?, factors, scaling)?;
        if let Some(initial) = self.subtracted_product(module) {
            sum = add(sum, initial, -scaling)?;
        }
        if let Some(magnitude) = adapter.magnitude.as_ref().and_then(|name| self.parameters().get(name)) {
            // The axis along which the lengths are taken is that of the inputs.
            let inputs = usize::from(!adapter.embedding);
            let norms = sum.square()?.sum(&[inputs], false)?.sqrt()?;
            sum = sum.mul(&magnitude.div(&norms)?.unsqueeze(inputs)?)?;
        }
        finite(&format!("{module}.weight"), "the adapter", sum.cast(weight.dtype())?)
    }
}

/// `merged`, if every element of it is finite.
fn finite(name: &str, what: &str, merged: Tensor) -> Result<Tensor> {
    if is_finite(&merged)? {
        return Ok(merged);
    }
    let hint = if merged.dtype() == DType::F16 { "; f16 ends at 65504, merge into bf16 or f32" } else { "" };
    Err(LoraError::NotFinite {
        tensor: name.into(),
        message: format!("merging {what} gives NaN or infinity in {}{hint}", merged.dtype()),
    })
}

/// Whether every element is finite. Waits for the device.
pub(crate) fn is_finite(values: &Tensor) -> Result<bool> {
    if values.elements() == 0 {
        return Ok(true);
    }
    let axes: Vec<usize> = (0..values.rank()).collect();
    // The largest magnitude is infinite if any is, and NaN if any is.
    let largest = values.cast(DType::F32)?.abs()?.max(&axes, false)?;
    Ok(largest.item::<f32>()?.is_finite())
}

#[cfg(test)]
mod tests {
    use tensor::Device;
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::{LoraConfig, ModuleShape, Targets};

    fn set(device: &Device, factor: f32) -> AdapterSet {
        let config = LoraConfig { rank: 1, alpha: 2.0, targets: Targets::AllLinear, ..LoraConfig::default() };
        AdapterSet::from_factors(config, &[ModuleShape::new("m", 3, 2)], device, |_| {
            let a = Tensor::from_slice(device, &[1, 3], &[1.0f32, -2.0, factor])?;
            Ok((a, Tensor::from_slice(device, &[2, 1], &[0.5f32, 3.0])?))
        })
        .unwrap()
    }

    on_each_backend! {
        fn merging_adds_the_scaled_product_and_unmerging_takes_it_out(device) {
            let weight = Tensor::from_slice(device, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
            let set = set(device, 0.25);
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let weight = weight.cast(dtype).unwrap();
                let merged = set.merge("m", &weight).unwrap();
                assert_eq!(merged.dtype(), dtype);
                let values = |tensor: &Tensor| tensor.cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
                assert_eq!(values(&merged), [2.0, 0.0, 3.25, 10.0, -7.0, 7.5], "{dtype}");
                assert_eq!(values(&set.unmerge("m", &merged).unwrap()), values(&weight), "{dtype}");
                assert_eq!(values(&set.merge("other", &weight).unwrap()), values(&weight));
            }
            assert_eq!(weight.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "the base is never written");
        }

        fn what_is_not_finite_is_named(device) {
            let weight = Tensor::ones(device, &[2, 3], DType::F32).unwrap();
            for (factor, dtype) in [
                (f32::NAN, DType::F32),
                (f32::INFINITY, DType::Bf16),
                (f32::NEG_INFINITY, DType::F32),
                (1e5, DType::F16),
            ] {
                let error = set(device, factor).merge("m", &weight.cast(dtype).unwrap()).unwrap_err().to_string();
                assert!(error.starts_with("m.weight: merging") && error.contains(dtype.name()), "{error}");
            }
            set(device, 1e5).merge("m", &weight.cast(DType::Bf16).unwrap()).unwrap();
        }
    }
}
