//! RefLoRA's matrices for many adapters at once: S̃ = (A·Aᵀ)⁻¹ # (Bᵀ·B), its inverse, and gradients multiplied by them.
//! On a GPU nothing waits for the host, and the number of dispatches grows by one for 15 adapters or so.
//!
//! Definitions follow RefLoRA (Zhang, Li, Giannakis; NeurIPS 2025, arXiv 2505.18877). With A `[rank, inputs]` and
//! B `[outputs, rank]`, X = A·Aᵀ and Y = Bᵀ·B, S̃ is the symmetric positive definite root of S·X·S = Y. From
//! X = R_Aᵀ·R_A, Y = R_Bᵀ·R_B and the singular value decomposition R_A·R_Bᵀ = U·Σ·Vᵀ:
//!
//! S̃ = (R_Bᵀ·V)·Σ⁻¹·(R_Bᵀ·V)ᵀ,  S̃⁻¹ = (R_Aᵀ·U)·Σ⁻¹·(R_Aᵀ·U)ᵀ
//!
//! Singular values below [`SINGULAR_VALUE_FLOOR`]·σ₁ count for less, by the weight σ²/(floor·σ₁)³ in place of 1/σ: such
//! directions are noise of f32 factors, and 1/σ would raise it to the size of the signal. The weight is continuous,
//! and 0 where a factor is rank deficient.
//!
//! How it is computed. The CPU: QR and SVD in f64. Kernels: R_A and R_B by Cholesky from Gram matrices, since Gram
//! matrices of long thin factors are one pass over memory and independent of their length afterwards; but they square
//! the condition, so everything up to Σ is done in pairs of f32 with a 48-bit significand (`double.wgsl`), and long sums
//! of products exactly, from elements cut in three (`gram.wgsl`). One-sided Jacobi then finds U·Σ and V to high relative
//! accuracy. Measured against f64: within 10⁻⁵ of S̃'s norm for factors of
//! condition 10³; directions below 10⁻⁶ of a factor's norm are dropped. An iteration without decompositions would need
//! inverses of the same Gram matrices and has no answer for singular ones; two symmetric eigendecompositions, the
//! published way, lose all digits of f32 at condition 10³.

mod cpu;
mod dense;
mod gpu;
#[cfg(test)]
mod tests;

use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::Tensor;

pub use dense::{DenseRefactoring, dense_refactoring};

const NAME: &str = "refactoring";

/// Singular values of B·A below this share of the largest count as noise; about the resolution of f32.
pub const SINGULAR_VALUE_FLOOR: f64 = 1e-7;

/// The largest magnitude of an entry of S̃ or S̃⁻¹ as f32; a pair beyond it has no S̃ that f32 gradients could use.
const LARGEST_ENTRY: f64 = 1e30;

/// The two factors of one adapter, f32.
#[derive(Clone, Copy, Debug)]
pub struct FactorPair<'a> {
    /// A `[rank, inputs]`.
    pub a: &'a Tensor,
    /// B `[outputs, rank]`.
    pub b: &'a Tensor,
}

/// The shape of one adapter's factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairShape {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Columns of A.
    pub inputs: usize,
    /// Rows of B.
    pub outputs: usize,
}

/// S̃ and S̃⁻¹ of a fixed list of adapters, kept on their device.
///
/// A pair without S̃ (a factor that is zero, not finite, or so unlike the other in scale that S̃ exceeds 10³⁰) has the
/// identity for both, so that its gradients pass unchanged; [`Refactoring::undefined`] counts how often.
#[derive(Clone, Debug)]
pub struct Refactoring {
    device: Device,
    shapes: Vec<PairShape>,
    /// Where each pair's S̃⁻¹ begins in `matrices`; S̃ follows it.
    offsets: Vec<usize>,
    /// f32, all pairs one after the other.
    matrices: Tensor,
    /// u32 `[pairs]`: how often an update found no S̃.
    undefined: Tensor,
    /// What kernels need to know of the pairs; none on the CPU.
    tables: Option<gpu::Tables>,
}

impl Refactoring {
    /// Identities for adapters of these shapes, to be replaced by [`Refactoring::update`].
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for a rank of 0 or, on a GPU, above 256, for empty factors, or the device's own
    /// errors.
    pub fn new(device: &Device, shapes: &[PairShape]) -> Result<Self> {
        for (index, PairShape { rank, inputs, outputs }) in shapes.iter().enumerate() {
            if [*rank, *inputs, *outputs].contains(&0) {
                let message = format!("pair {index} has an empty factor: rank {rank}, {inputs} to {outputs}");
                return Err(TensorError::InvalidArgument { operation: NAME, message });
            }
            if !device.is_cpu() && *rank > gpu::RANK_LIMIT {
                let message = format!("pair {index} has rank {rank}; at most {} on a GPU", gpu::RANK_LIMIT);
                return Err(TensorError::InvalidArgument { operation: NAME, message });
            }
        }
        let mut offsets = Vec::with_capacity(shapes.len());
        let mut matrices = Vec::new();
        for shape in shapes {
            offsets.push(matrices.len());
            for _ in 0..2 {
                matrices.extend((0..shape.rank * shape.rank).map(|i| f32::from(i % (shape.rank + 1) == 0)));
            }
        }
        Ok(Refactoring {
            device: device.clone(),
            shapes: shapes.to_vec(),
            offsets,
            matrices: Tensor::from_vec(device, &[matrices.len()], matrices)?,
            undefined: Tensor::zeros(device, &[shapes.len()], DType::U32)?,
            tables: None,
        })
        .and_then(Self::with_tables)
    }

    fn with_tables(mut self) -> Result<Self> {
        if !self.device.is_cpu() {
            let items: Vec<Item> = (0..self.len()).flat_map(|index| self.items(index)).collect();
            self.tables = Some(gpu::Tables::new(&self.device, &self.shapes, &items)?);
        }
        Ok(self)
    }

    /// Number of adapters.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// True for no adapters at all.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// Finds S̃ and S̃⁻¹ of all pairs, in the order of the shapes.
    ///
    /// # Errors
    /// [`TensorError::Shape`], [`TensorError::DType`] or [`TensorError::DeviceMismatch`] for other factors than were
    /// announced, [`TensorError::InvalidArgument`] for another number of them, or the device's own errors.
    pub fn update(&mut self, pairs: &[FactorPair<'_>]) -> Result<()> {
        if pairs.len() != self.len() {
            let message = format!("{} pairs were announced, found {}", self.len(), pairs.len());
            return Err(TensorError::InvalidArgument { operation: NAME, message });
        }
        for (index, pair) in pairs.iter().enumerate() {
            self.check(index, pair.a, pair.b)?;
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let dense: Vec<Tensor> =
            pairs.iter().flat_map(|pair| [pair.a, pair.b]).map(Tensor::contiguous).collect::<Result<_>>()?;
        self.matrices.make_unique()?;
        self.undefined.make_unique()?;
        let device = self.device.clone();
        match device.backend() {
            Backend::Cpu => cpu::update(self, &dense),
            Backend::Gpu(gpu) => gpu::update(gpu, self, &dense),
        }
    }

    /// The preconditioned gradients (S̃⁻¹·∇A, ∇B·S̃) of some of the pairs, given as (index, ∇A, ∇B), in the same order.
    ///
    /// # Errors
    /// As [`Refactoring::update`], and [`TensorError::InvalidArgument`] for an index that is not a pair's.
    pub fn precondition(&self, gradients: &[(usize, &Tensor, &Tensor)]) -> Result<Vec<(Tensor, Tensor)>> {
        let mut inputs = Vec::with_capacity(2 * gradients.len());
        for &(index, a, b) in gradients {
            self.check(index, a, b)?;
            inputs.extend([a.contiguous()?, b.contiguous()?]);
        }
        let items: Vec<Item> = gradients.iter().flat_map(|&(index, ..)| self.items(index)).collect();
        let outputs = match self.device.backend() {
            Backend::Cpu => cpu::multiply(&self.matrices, &items, &inputs)?,
            Backend::Gpu(gpu) => {
                let all = gradients.len() == self.len() && gradients.iter().enumerate().all(|(i, g)| g.0 == i);
                gpu::multiply(gpu, self, &items, all, &inputs)?
            }
        };
        let mut outputs = outputs.into_iter();
        Ok(std::iter::from_fn(|| Some((outputs.next()?, outputs.next()?))).collect())
    }

    /// S̃ and S̃⁻¹ of one pair, f32 `[rank, rank]` each.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] for an index that is not a pair's.
    pub fn matrices(&self, index: usize) -> Result<(Tensor, Tensor)> {
        let rank = self.shape(index)?.rank;
        let start = self.offsets[index];
        let part = |start: usize| self.matrices.slice(0, start, start + rank * rank)?.reshape(&[rank, rank]);
        Ok((part(start + rank * rank)?, part(start)?))
    }

    /// How often an update found no S̃, for each pair: u32 `[pairs]` on the device. Reading it waits for the device.
    pub fn undefined(&self) -> &Tensor {
        &self.undefined
    }

    /// Goes on counting from a saved [`Refactoring::undefined`], and with saved matrices: what a resumed run needs
    /// between two updates.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] for tensors of other adapters.
    pub fn restore(&mut self, matrices: &Tensor, undefined: &Tensor) -> Result<()> {
        matrices.expect_dtype(NAME, DType::F32)?;
        undefined.expect_dtype(NAME, DType::U32)?;
        matrices.expect_shape(NAME, self.matrices.shape())?;
        undefined.expect_shape(NAME, self.undefined.shape())?;
        self.matrices = matrices.to_device(&self.device)?;
        self.undefined = undefined.to_device(&self.device)?;
        Ok(())
    }

    /// All matrices one after the other, f32: S̃⁻¹ before S̃ for each pair.
    pub fn all_matrices(&self) -> &Tensor {
        &self.matrices
    }

    fn shape(&self, index: usize) -> Result<&PairShape> {
        self.shapes.get(index).ok_or_else(|| TensorError::InvalidArgument {
            operation: NAME,
            message: format!("there is no pair {index} among {}", self.shapes.len()),
        })
    }

    /// Factors or their gradients.
    fn check(&self, index: usize, a: &Tensor, b: &Tensor) -> Result<()> {
        let shape = self.shape(index)?;
        for (tensor, expected) in [(a, [shape.rank, shape.inputs]), (b, [shape.outputs, shape.rank])] {
            tensor.expect_dtype(NAME, DType::F32)?;
            tensor.expect_shape(NAME, &Shape::new(&expected)?)?;
            self.matrices.expect_same_device(NAME, tensor)?;
        }
        Ok(())
    }

    fn items(&self, index: usize) -> [Item; 2] {
        let PairShape { rank, inputs, outputs } = self.shapes[index];
        let start = self.offsets[index];
        [
            Item { rank, length: inputs, transposed: false, matrix: start },
            Item { rank, length: outputs, transposed: true, matrix: start + rank * rank },
        ]
    }
}

/// A factor or a gradient with the matrix that belongs to it. Both kinds are `rank` rows of `length` elements; those of
/// A lie `[rank, length]` in memory, those of B `[length, rank]`.
#[derive(Clone, Copy, Debug)]
struct Item {
    rank: usize,
    length: usize,
    transposed: bool,
    /// Where the symmetric matrix begins among all matrices.
    matrix: usize,
}

impl Item {
    fn shape(&self) -> [usize; 2] {
        if self.transposed { [self.length, self.rank] } else { [self.rank, self.length] }
    }
}
