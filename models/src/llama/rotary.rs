//! Rotary position tables: the cosines and sines that turn each head's halves.

use tensor::{Device, Tensor};

use super::config::{LlamaConfig, RopeScaling};
use crate::error::Result;

/// Inverse frequencies 1/θ^(2i/head_dim), scaled as the configuration says: `head_dim / 2` values.
///
/// The arithmetic is f32 in the reference's order; checkpoints were trained with these very numbers.
pub fn inverse_frequencies(config: &LlamaConfig) -> Vec<f32> {
    let base = config.rope_theta;
    let plain = (0..config.head_dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / (base.powf(f64::from(exponent)) as f32)
    });
    match config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(|value| value as f32);
            let original = original_max_position_embeddings as f32;
            plain.map(|frequency| stretch(frequency, factor, low, high, original)).collect()
        }
    }
}

/// LLaMA 3.1's change of one frequency: divided by `factor` where its wavelength exceeds `original / low`, kept where
/// it is below `original / high`, mixed in between.
fn stretch(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let share = (original / wavelength - low) / (high - low);
        (1.0 - share) * frequency / factor + share * frequency
    }
}

/// Cosines and sines for the positions `0..positions`.
#[derive(Clone)]
pub(crate) struct RotaryTable {
    /// `[positions, head_dim / 2]`, f32.
    pub cosines: Tensor,
    /// `[positions, head_dim / 2]`, f32.
    pub sines: Tensor,
}

impl RotaryTable {
    pub fn new(device: &Device, config: &LlamaConfig, positions: usize) -> Result<Self> {
        let (cosines, sines) = table(&inverse_frequencies(config), positions);
        let shape = [positions, config.head_dim / 2];
        Ok(RotaryTable {
            cosines: Tensor::from_vec(device, &shape, cosines)?,
            sines: Tensor::from_vec(device, &shape, sines)?,
        })
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cosines.shape()[0]
    }

    /// The rows `start..end`.
    pub fn slice(&self, start: usize, end: usize) -> Result<Self> {
        Ok(RotaryTable { cosines: self.cosines.slice(0, start, end)?, sines: self.sines.slice(0, start, end)? })
    }
}

/// The angle is the f32 product of position and frequency; its cosine and sine are rounded from f64.
fn table(frequencies: &[f32], positions: usize) -> (Vec<f32>, Vec<f32>) {
    (0..positions)
        .flat_map(|position| frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency)))
        .map(|angle| (angle.cos() as f32, angle.sin() as f32))
        .unzip()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::*;

    fn golden(file: &str, name: &str) -> Vec<f32> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
        let bytes = std::fs::read(path).expect("the fixture");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        bytemuck::pod_collect_to_vec(tensors.tensor(name).expect("the golden tensor").data())
    }

    fn shape(theta: f64, hidden: usize, scaling: RopeScaling) -> LlamaConfig {
        let preset = LlamaConfig::preset("7b").expect("a preset");
        LlamaConfig { rope_theta: theta, hidden_size: hidden, head_dim: hidden / 32, rope_scaling: scaling, ..preset }
    }

    fn llama3(factor: f64, original: usize) -> RopeScaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        }
    }

    /// Values differ by no more than one unit in the last place (the reference's powers are themselves rounded).
    fn assert_same(what: &str, got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= want.abs() * 1.2e-7, "{what}[{i}]: {got:e} instead of {want:e}");
        }
    }

    #[test]
    fn inverse_frequencies_are_those_of_published_models() {
        for (name, config) in [
            ("llama2_7b", shape(1e4, 4096, RopeScaling::None)),
            ("llama3_8b", shape(5e5, 4096, RopeScaling::None)),
            ("llama31_8b", shape(5e5, 4096, llama3(8.0, 8192))),
            ("llama32_1b", shape(5e5, 2048, llama3(32.0, 8192))),
        ] {
            let want = golden("rope_inv_freq.safetensors", &format!("{name}.inv_freq"));
            assert_same(name, &inverse_frequencies(&config), &want);
        }
    }

    #[test]
    fn linear_scaling_divides() {
        let plain = inverse_frequencies(&shape(1e4, 4096, RopeScaling::None));
        let scaled = inverse_frequencies(&shape(1e4, 4096, RopeScaling::Linear { factor: 4.0 }));
        assert!(plain.iter().zip(&scaled).all(|(plain, scaled)| plain / 4.0 == *scaled));
    }

    #[test]
    fn tables_are_the_references() {
        for (name, theta, scaling) in [("llama_tiny", 1e4, RopeScaling::None), ("llama3_tiny", 5e5, llama3(8.0, 256))] {
            let config = LlamaConfig { head_dim: 16, num_attention_heads: 4, ..shape(theta, 64, scaling) };
            let table = RotaryTable::new(&Device::cpu(), &config, 32).expect("a table");
            let file = format!("{name}/debug.safetensors");
            assert_same(name, &inverse_frequencies(&config), &golden(&file, "inv_freq"));
            for (name, tensor) in [("cos", &table.cosines), ("sin", &table.sines)] {
                // The reference repeats each row's half.
                let want = golden(&file, name);
                let want = want.chunks(16).flat_map(|row| &row[..8]);
                for (got, want) in tensor.to_vec::<f32>().expect("values").iter().zip(want) {
                    assert!((got - want).abs() <= 1e-6, "{name}: {got} instead of {want}");
                }
            }
            assert_eq!(table.slice(3, 5).expect("rows").positions(), 2);
        }
    }
}
