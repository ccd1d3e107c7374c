//! How fresh factors begin.

mod spectral;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use tensor::{DType, Device, RandomKey, Tensor};

use crate::adapter::Adapter;
use crate::error::{LoraError, Result};

/// Where fresh factors come from: `init_lora_weights` of PEFT. Embeddings begin with A zero and B standard normal whatever
/// is chosen, as in PEFT; the choices that need the weight are for linear modules only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Initialisation {
    /// A from [`kaiming_uniform`], B zero (`true`).
    #[default]
    Kaiming,
    /// A normal with standard deviation 1/rank, B zero (`gaussian`).
    Gaussian,
    /// Both factors from [`kaiming_uniform`] (`false`): the model changes at once, unless
    /// [`crate::AdapterSet::subtract_initial_product`] is asked for.
    Random,
    /// The principal singular values and vectors of the weight, `s·B·A = U_r·Σ_r·V_rᵀ`, subtracted from it (PiSSA, Meng et
    /// al., 2024, arXiv 2404.02948; `pissa`, `pissa_niter_N`). Without `iterations` the whole decomposition is made, which
    /// takes long for large weights; with N of them a randomised one with N power iterations.
    Pissa {
        /// Power iterations of the randomised decomposition.
        iterations: Option<usize>,
    },
    /// The first columns of Q and rows of R from the weight's QR decomposition, their product subtracted from it (OLoRA,
    /// Büyükakyüz, 2024, arXiv 2406.01775; `olora`).
    Olora,
    /// Random factors in orthogonal subspaces of the rank's space, so that B·A is zero while neither is (`orthogonal` of
    /// later versions of PEFT). The rank must be even.
    Orthogonal,
}

impl Initialisation {
    /// Whether the initial product is subtracted from the weight.
    pub fn subtracts(self) -> bool {
        matches!(self, Initialisation::Pissa { .. } | Initialisation::Olora)
    }
}

impl fmt::Display for Initialisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Initialisation::Kaiming => f.write_str("true"),
            Initialisation::Gaussian => f.write_str("gaussian"),
            Initialisation::Random => f.write_str("false"),
            Initialisation::Pissa { iterations: None } => f.write_str("pissa"),
            Initialisation::Pissa { iterations: Some(iterations) } => write!(f, "pissa_niter_{iterations}"),
            Initialisation::Olora => f.write_str("olora"),
            Initialisation::Orthogonal => f.write_str("orthogonal"),
        }
    }
}

/// Reads PEFT's spellings, which are those that [`Initialisation`] is displayed in.
impl FromStr for Initialisation {
    type Err = LoraError;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "true" => Initialisation::Kaiming,
            "gaussian" => Initialisation::Gaussian,
            "false" => Initialisation::Random,
            "pissa" => Initialisation::Pissa { iterations: None },
            "olora" => Initialisation::Olora,
            "orthogonal" => Initialisation::Orthogonal,
            _ => match text.strip_prefix("pissa_niter_").and_then(|count| count.parse().ok()) {
                Some(iterations) => Initialisation::Pissa { iterations: Some(iterations) },
                None => {
                    let known = "true, false, gaussian, pissa, pissa_niter_N, olora, orthogonal";
                    return Err(setting(format!("`{text}` is none of {known}")));
                }
            },
        })
    }
}

fn setting(message: String) -> LoraError {
    LoraError::Setting { setting: "init_lora_weights", message }
}

/// The factors A `[rank, inputs]` and B `[outputs, rank]` of a new adapter. They depend on the seed, the factors' names
/// and, where the initialiser starts from it, the weight.
pub(crate) fn fresh_factors(
    adapter: &Adapter,
    initialisation: Initialisation,
    weight: Option<&Tensor>,
    device: &Device,
    seed: u64,
) -> Result<(Tensor, Tensor)> {
    let Adapter { rank, inputs, outputs, .. } = *adapter;
    let key = |name: &str| RandomKey::named(seed, name, 0);
    let zeros = |shape: [usize; 2]| Tensor::zeros(device, &shape, DType::F32);
    if adapter.embedding {
        return Ok((
            zeros([rank, inputs])?,
            Tensor::random_normal(device, &[outputs, rank], 0.0, 1.0, key(&adapter.b))?,
        ));
    }
    let kaiming = || kaiming_uniform(device, rank, inputs, key(&adapter.a));
    let given_weight = || {
        weight.ok_or_else(|| {
            setting(format!("`{initialisation}` starts from the weight of `{}`, which is not given", adapter.module))
        })
    };
    match initialisation {
        Initialisation::Kaiming => Ok((kaiming()?, zeros([outputs, rank])?)),
        Initialisation::Gaussian => {
            let a = Tensor::random_normal(device, &[rank, inputs], 0.0, 1.0 / rank as f32, key(&adapter.a))?;
            Ok((a, zeros([outputs, rank])?))
        }
        Initialisation::Random => Ok((kaiming()?, kaiming_uniform(device, outputs, rank, key(&adapter.b))?)),
        Initialisation::Pissa { iterations } => {
            spectral::principal(given_weight()?, adapter, iterations, key(&adapter.a))
        }
        Initialisation::Olora => spectral::orthonormal(given_weight()?, adapter),
        Initialisation::Orthogonal => orthogonal(adapter, device, seed),
    }
}

/// A weight `[outputs, inputs]`, uniform in ±1/√inputs: Kaiming's initialisation with a = √5, as PEFT and PyTorch's
/// linear layers use it. Counter-based: every element depends on the key and its index alone.
///
/// # Errors
/// [`tensor::TensorError::InvalidArgument`] when there are no inputs, or the device's own errors.
pub fn kaiming_uniform(device: &Device, outputs: usize, inputs: usize, key: RandomKey) -> Result<Tensor> {
    let bound = 1.0 / (inputs as f32).sqrt();
    Ok(Tensor::random_uniform(device, &[outputs, inputs], -bound, bound, key)?)
}

/// From an orthogonal Q `[rank, rank]`: A = (N₁·Q_even)ᵀ/10 and B = N₂·Q_odd/10 with standard normal N₁
/// `[inputs, rank/2]` and N₂ `[outputs, rank/2]`. The rows of Q are orthogonal, so B·A is zero up to rounding.
fn orthogonal(adapter: &Adapter, device: &Device, seed: u64) -> Result<(Tensor, Tensor)> {
    let Adapter { rank, inputs, outputs, .. } = *adapter;
    if !rank.is_multiple_of(2) {
        return Err(setting(format!("`orthogonal` needs an even rank, and that of `{}` is {rank}", adapter.module)));
    }
    let half = rank / 2;
    let host = Device::cpu();
    let normal = |shape: [usize; 2], name: &str, step: u64| {
        Tensor::random_normal(&host, &shape, 0.0, 1.0, RandomKey::named(seed, name, step))
    };
    let (q, _) = tensor::linalg::qr(&normal([rank, rank], &adapter.a, 1)?)?;
    let (even, odd) = (q.slice(0, 0, half)?, q.slice(0, half, rank)?);
    let factor =
        |extent: usize, name: &str, rows: &Tensor| normal([extent, half], name, 0)?.matmul(rows)?.affine(0.1, 0.0);
    let a = factor(inputs, &adapter.a, &even)?.t()?.contiguous()?;
    Ok((a.to_device(device)?, factor(outputs, &adapter.b, &odd)?.to_device(device)?))
}
