//! Where a model's base weights come from: a checkpoint, or random numbers for benchmarks. A model asks for each of
//! its tensors by name and shape; the source uploads or generates them one by one on the device.

use std::collections::BTreeSet;

use safetensors::Dtype;
use tensor::{DType, Device, RandomKey, Tensor, bf16, f16};

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};

/// The element type in which weight matrices are kept on the device. Norm weights and biases are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// f32, whatever the file stores.
    #[default]
    F32,
    /// As the file stores them; random weights are bf16.
    Stored,
    /// f16, for mixed precision: products with such a matrix round their other operand to 16 bits as well
    /// ([`Tensor::mixed_matmul`]). A matrix whose largest element f16 does not hold to its full precision is kept in f32.
    F16,
    /// bf16.
    Bf16,
}

impl WeightType {
    fn resolve(self, stored: DType) -> DType {
        match self {
            WeightType::F32 => DType::F32,
            WeightType::Stored => stored,
            WeightType::F16 => DType::F16,
            WeightType::Bf16 => DType::Bf16,
        }
    }
}

/// What a model needs from the source of its weights.
pub(crate) trait WeightSource {
    /// A weight matrix (projection or embedding) in the chosen type.
    fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// The shape of a tensor that a checkpoint holds; `None` where there is no such tensor to load.
    fn stored_shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The weight of a norm, in f32.
    fn norm(&mut self, name: &str, width: usize) -> Result<Tensor>;

    /// A bias, in f32.
    fn bias(&mut self, name: &str, width: usize) -> Result<Tensor>;

    /// The embedding of a model whose head is the same matrix, under whichever of the two names it is stored.
    fn tied(&mut self, embedding: &str, head: &str, shape: &[usize]) -> Result<Tensor>;
}

/// Weights from a checkpoint; remembers which tensors were used.
pub(crate) struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    weight_type: WeightType,
    used: BTreeSet<String>,
}

impl<'a> CheckpointWeights<'a> {
    pub fn new(checkpoint: &'a Checkpoint, device: &'a Device, weight_type: WeightType) -> Self {
        CheckpointWeights { checkpoint, device, weight_type, used: BTreeSet::new() }
    }

    /// The names of the tensors that nothing has asked for, in order.
    pub fn unused(&self) -> Vec<String> {
        self.checkpoint
            .tensors()
            .map(|(name, _)| name)
            .filter(|name| !self.used.contains(*name))
            .map(Into::into)
            .collect()
    }

    /// Checks that nothing in the checkpoint was left over, except what `ignored` says may be.
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let unused = |name: &str| !self.used.contains(name) && !ignored(name);
        let mut left = self.checkpoint.tensors().map(|(name, _)| name).filter(|name| unused(name));
        let Some(first) = left.next() else { return Ok(()) };
        let path = self.checkpoint.file_of(first).unwrap_or(self.checkpoint.directory()).to_path_buf();
        Err(ModelError::UnusedTensors { path, first: first.into(), count: 1 + left.count() })
    }

    fn load(&mut self, name: &str, shape: &[usize], weight_type: WeightType) -> Result<Tensor> {
        let checkpoint = self.checkpoint;
        let stored_name = if checkpoint.get(name).is_some() { Some(name) } else { checkpoint.alias(name) };
        let stored = stored_name.and_then(|name| Some((name, checkpoint.get(name)?, checkpoint.bytes(name)?)));
        let Some((stored_name, info, bytes)) = stored else { return Err(self.missing(name, shape)) };
        self.used.insert(stored_name.to_string());
        checkpoint.will_need(stored_name);
        let path = || checkpoint.file_of(stored_name).unwrap_or(checkpoint.directory()).to_path_buf();
        if info.shape != shape {
            let (expected, found) = (shape.to_vec(), info.shape.clone());
            return Err(ModelError::TensorShape { path: path(), tensor: stored_name.into(), expected, found });
        }
        let Some(stored_type) = float_type(info.dtype) else {
            let found = format!("{:?}", info.dtype);
            return Err(ModelError::TensorType { path: path(), tensor: stored_name.into(), found });
        };
        let wanted = match weight_type.resolve(stored_type) {
            DType::F16 if !fits_f16(stored_type, &bytes) => DType::F32,
            resolved => resolved,
        };
        let uploaded = Tensor::from_bytes(self.device, stored_type, shape, &bytes)?;
        drop(bytes);
        checkpoint.release(stored_name);
        // The conversions that exist go to or from f32; the other half type takes two steps.
        let through_f32 = stored_type.is_half() && wanted.is_half() && stored_type != wanted;
        let uploaded = if through_f32 { uploaded.cast(DType::F32)? } else { uploaded };
        Ok(uploaded.cast(wanted)?)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> ModelError {
        let hint = if name == "lm_head.weight" && self.checkpoint.get("model.embed_tokens.weight").is_some() {
            "; if the head shares the embedding, config.json must say tie_word_embeddings: true"
        } else if name.starts_with("deberta.") && self.checkpoint.get(name.trim_start_matches("deberta.")).is_some() {
            "; the names lack the prefix `deberta.`: this is a bare encoder, saved without a head"
        } else if self.checkpoint.get(name.trim_start_matches("model.")).is_some() {
            "; the names lack the prefix `model.`: this is a bare model without its language-modelling head"
        } else {
            "; the file does not hold the model that config.json describes"
        };
        let (expected, hint) = (shape.to_vec(), hint.into());
        let path = self.checkpoint.directory().to_path_buf();
        ModelError::MissingTensor { path, tensor: name.into(), expected, hint }
    }
}

impl WeightSource for CheckpointWeights<'_> {
    fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.load(name, shape, self.weight_type)
    }

    fn stored_shape(&self, name: &str) -> Option<Vec<usize>> {
        let stored = self.checkpoint.get(name).or_else(|| self.checkpoint.get(self.checkpoint.alias(name)?));
        stored.map(|tensor| tensor.shape.clone())
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Tensor> {
        self.load(name, &[width], WeightType::F32)
    }

    fn bias(&mut self, name: &str, width: usize) -> Result<Tensor> {
        self.load(name, &[width], WeightType::F32)
    }

    fn tied(&mut self, embedding: &str, head: &str, shape: &[usize]) -> Result<Tensor> {
        match (self.checkpoint.bytes(embedding), self.checkpoint.bytes(head)) {
            (None, Some(_)) => self.load(head, shape, self.weight_type),
            (Some(first), Some(second)) => {
                if first != second {
                    return Err(ModelError::TiedWeightsDiffer { path: self.checkpoint.directory().to_path_buf() });
                }
                self.used.insert(head.to_string());
                self.load(embedding, shape, self.weight_type)
            }
            _ => self.load(embedding, shape, self.weight_type),
        }
    }
}

/// The element type as the engine's, where it is one that weights may have.
pub(crate) fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// Whether f16 holds a matrix to 2⁻¹¹ of its largest element: this one lies between the smallest normal f16 and the largest
/// (or the matrix is zero). Infinities and NaN fit any type.
fn fits_f16(stored: DType, bytes: &[u8]) -> bool {
    let largest = match stored {
        DType::F32 => largest_magnitude(bytes, |element| f32::from_le_bytes(*element)),
        DType::Bf16 => largest_magnitude(bytes, |element| bf16::from_le_bytes(*element).to_f32()),
        _ => return true,
    };
    largest == 0.0 || (f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32()).contains(&largest)
}

/// The largest of the finite elements' magnitudes. Magnitudes are in the order of their bits, which vector instructions
/// compare.
fn largest_magnitude<const SIZE: usize>(bytes: &[u8], read: impl Fn(&[u8; SIZE]) -> f32) -> f32 {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let bits = |element| {
        let magnitude = read(element).to_bits() & 0x7fff_ffff;
        if magnitude < f32::INFINITY.to_bits() { magnitude } else { 0 }
    };
    f32::from_bits(elements.iter().fold(0, |largest, element| largest.max(bits(element))))
}

/// Random weights: matrices N(0, deviation²), norms one, biases zero. A tensor's values depend on the seed and its
/// name only, so that every device and every order of loading gives the same model.
pub(crate) struct RandomWeights<'a> {
    pub device: &'a Device,
    pub weight_type: WeightType,
    pub seed: u64,
    /// Standard deviation of the matrices.
    pub deviation: f32,
    /// Whether the matrices are of bf16's precision, whatever their type.
    pub from_bf16: bool,
}

impl WeightSource for RandomWeights<'_> {
    fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let key = RandomKey::named(self.seed, name, 0);
        let values = Tensor::random_normal(self.device, shape, 0.0, self.deviation, key)?;
        let values = if self.from_bf16 { values.cast(DType::Bf16)?.cast(DType::F32)? } else { values };
        Ok(values.cast(self.weight_type.resolve(DType::Bf16))?)
    }

    fn stored_shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn norm(&mut self, _: &str, width: usize) -> Result<Tensor> {
        Ok(Tensor::ones(self.device, &[width], DType::F32)?)
    }

    fn bias(&mut self, _: &str, width: usize) -> Result<Tensor> {
        Ok(Tensor::zeros(self.device, &[width], DType::F32)?)
    }

    fn tied(&mut self, embedding: &str, _: &str, shape: &[usize]) -> Result<Tensor> {
        self.matrix(embedding, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_holds_what_lies_within_its_normal_numbers() {
        for position in [0, 1, 4095, 9000] {
            let holds = |value: f32, rest: f32| {
                let mut values = vec![rest; 9001];
                // Infinities stay infinities in f16: they are no loss.
                values[5] = f32::NEG_INFINITY;
                values[position] = value;
                let bytes =
                    |size: usize| values.iter().flat_map(move |x| x.to_le_bytes()[4 - size..].to_vec()).collect();
                let [wide, short]: [Vec<u8>; 2] = [bytes(4), bytes(2)];
                [fits_f16(DType::F32, &wide), fits_f16(DType::Bf16, &short)]
            };
            assert_eq!(holds(-65_280.0, 1.0), [true; 2]);
            assert_eq!(holds(-65_536.0, 1.0), [false; 2]);
            assert_eq!(holds(2f32.powi(-14), 0.0), [true; 2]);
            assert_eq!(holds(2f32.powi(-15), 0.0), [false; 2]);
            assert_eq!(holds(0.0, 0.0), [true; 2]);
        }
    }
}
