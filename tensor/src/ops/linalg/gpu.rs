//! The GPU's decompositions: what is launched in which order. One workgroup works on one matrix, so that a batch of
//! many small matrices fills the device; nothing is read back.

use super::householder::Reflections;
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Loop iterations of one invocation in one dispatch. Software adapters stop loops silently after 65,535, and systems
/// with a watchdog end dispatches that take seconds; what needs more is divided among dispatches.
pub(in crate::ops) const BUDGET: usize = 1 << 15;

/// Sweeps that are launched. Each first asks whether the matrix has converged, so superfluous ones cost only a launch.
/// Measured up to size 128, last idle sweep included: 5 to 11 for most matrices, 14 for the slowest kinds tried
/// (repeated columns, slowly falling spectra). Nothing asks in the end, since that would be a wait for the host: a matrix
/// that needed more would have less exact factors.
pub(super) const SWEEPS: usize = 24;

pub(super) const PREPARE: &str =
    concat!(include_str!("prepare.wgsl"), include_str!("reduce.wgsl"), include_str!("reduce_all.wgsl"));
pub(super) const SVD: &str =
    concat!(include_str!("svd.wgsl"), include_str!("rounds.wgsl"), include_str!("reduce.wgsl"));
pub(super) const EIGEN: &str = concat!(include_str!("eigen.wgsl"), include_str!("rounds.wgsl"));
pub(super) const RANK: &str = concat!(include_str!("rank.wgsl"), include_str!("reduce.wgsl"));
pub(super) const ROWS: &str = include_str!("rows.wgsl");
pub(super) const SIGNS: &str = include_str!("signs.wgsl");
pub(super) const CHOLESKY: &str = include_str!("cholesky.wgsl");

/// How often a loop over `count` with this step runs.
pub(super) fn iterations(count: usize, step: usize) -> usize {
    count.div_ceil(step)
}

/// Invocations of a workgroup for a matrix of so many elements: more than there is work for only makes barriers dear.
pub(super) fn workgroup(gpu: &Gpu, elements: usize) -> usize {
    let wanted = match elements {
        0..=512 => 64,
        513..=8192 => 256,
        _ => 1024,
    };
    at_most_invocations(gpu, wanted)
}

/// A wanted number of invocations, no more than the device has in a workgroup.
pub(in crate::ops) fn at_most_invocations(gpu: &Gpu, wanted: usize) -> usize {
    // A power of two, as the reductions need; 256 is what every device has.
    let limit = (gpu.summary.workgroup_invocations as usize).max(256);
    wanted.min(1 << limit.ilog2())
}

/// `a` as `[batch, rows, columns]`, contiguous.
fn flattened(a: &Tensor) -> Result<Tensor> {
    let rank = a.rank();
    let (rows, columns) = (a.shape()[rank - 2], a.shape()[rank - 1]);
    a.contiguous()?.reshape(&[a.elements() / (rows * columns), rows, columns])
}

/// The columns of `a` as new memory, `[batch, columns, rows]`.
fn columns_of(a: &Tensor) -> Result<Tensor> {
    let mut columns = flattened(&a.t()?)?;
    columns.make_unique()?;
    Ok(columns)
}

/// Q `[batch, m, k]` and R `[batch, k, n]`.
pub(super) fn qr(gpu: &Gpu, a: &Tensor) -> Result<(Tensor, Tensor)> {
    let reflections = Reflections::new(gpu, columns_of(a)?)?;
    Ok((reflections.orthogonal(gpu)?.t()?, reflections.triangle(gpu)?))
}

/// L `[batch, n, n]`.
pub(super) fn cholesky(gpu: &Gpu, a: &Tensor) -> Result<Tensor> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        batch: u32,
        size: u32,
    }
    let mut l = flattened(a)?;
    l.make_unique()?;
    let params = Params { batch: l.shape()[0] as u32, size: l.shape()[1] as u32 };
    Dispatch::new("cholesky", "main", Source::Wgsl(CHOLESKY))
        .write(&l)
        .params(&params)
        .run(gpu, linear_grid(l.shape()[0], 1))?;
    Ok(l)
}

/// Eigenvalues `[batch, n]` and vectors `[batch, n, n]`.
pub(super) fn symmetric_eigen(gpu: &Gpu, a: &Tensor) -> Result<(Tensor, Tensor)> {
    let jacobi = Jacobi::prepare(gpu, &flattened(a)?, true)?;
    jacobi.sweep(gpu, SWEEPS)?;
    let (values, order) = jacobi.rank(gpu)?;
    let vectors = reorder_rows(gpu, &jacobi.rotations, &order)?;
    let vectors = vectors.mul(&row_signs(gpu, &vectors)?)?;
    Ok((values, vectors.t()?))
}

/// U `[batch, m, k]`, singular values `[batch, k]`, Vᵀ `[batch, k, n]`.
pub(super) fn svd(gpu: &Gpu, a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let rank = a.rank();
    let wide = a.shape()[rank - 2] < a.shape()[rank - 1];
    // Of aᵀ = U·Σ·Vᵀ, V and U are the left and right vectors of a.
    let (mut left, values, mut right) = svd_tall(gpu, &if wide { a.t()? } else { a.clone() })?;
    if wide {
        std::mem::swap(&mut left, &mut right);
    }
    let signs = row_signs(gpu, &left)?;
    Ok((left.mul(&signs)?.t()?, values, right.mul(&signs)?))
}

/// Columns of U `[batch, n, m]`, singular values, rows of Vᵀ `[batch, n, n]`, for m ≥ n.
///
/// a = Q·R, then one-sided Jacobi on R's rows: R = X·Σ·Yᵀ, hence U = Q·X and V = Y. Also for square matrices, since
/// R's rows take up to half as many sweeps as those of a. The rows that Jacobi leaves are orthogonal and ordered by
/// length, so a further QR of them gives Y: it is orthonormal even where rows are zero, since Householder's reflections
/// complete it.
fn svd_tall(gpu: &Gpu, a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let reflections = Reflections::new(gpu, columns_of(a)?)?;
    let jacobi = Jacobi::prepare(gpu, &reflections.triangle(gpu)?, false)?;
    jacobi.sweep(gpu, SWEEPS)?;
    let (values, order) = jacobi.rank(gpu)?;
    let x = reorder_rows(gpu, &jacobi.rotations, &order)?;
    let rows = reorder_rows(gpu, &jacobi.w, &order)?;
    let right = Reflections::new(gpu, rows)?.orthogonal(gpu)?;
    Ok((reflections.orthogonal_times(gpu, &x)?, values, right))
}

/// Square matrices under Jacobi's rotations; see `prepare.wgsl`.
pub(super) struct Jacobi {
    symmetric: bool,
    batch: usize,
    size: usize,
    /// `[batch, n, n]`, as is `rotations`
    w: Tensor,
    rotations: Tensor,
    /// `[batch]`
    units: Tensor,
    /// `[batch, 2]`
    pub(super) states: Tensor,
}

impl Jacobi {
    /// `x` is `[batch, n, n]`, contiguous.
    pub(super) fn prepare(gpu: &Gpu, x: &Tensor, symmetric: bool) -> Result<Self> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            batch: u32,
            size: u32,
            offset: u32,
        }
        let (batch, size) = (x.shape()[0], x.shape()[1]);
        let scratch = |shape: &[usize], dtype| Tensor::uninitialised(x.device(), "jacobi", Shape::new(shape)?, dtype);
        let jacobi = Jacobi {
            symmetric,
            batch,
            size,
            w: scratch(x.shape(), DType::F32)?,
            rotations: scratch(x.shape(), DType::F32)?,
            units: scratch(&[batch], DType::F32)?,
            states: scratch(&[batch, 2], DType::U32)?,
        };
        let workgroup = workgroup(gpu, size * size);
        Dispatch::new("jacobi_prepare", "main", Source::Wgsl(PREPARE))
            .constant("WORKGROUP", workgroup as f64)
            .constant("LANES", workgroup as f64)
            .constant("SYMMETRIC", f64::from(u8::from(symmetric)))
            .read(x)
            .write(&jacobi.w)
            .write(&jacobi.rotations)
            .write(&jacobi.units)
            .write(&jacobi.states)
            .params(&Params { batch: batch as u32, size: size as u32, offset: x.layout.offset as u32 })
            .run(gpu, linear_grid(batch, 1))?;
        Ok(jacobi)
    }

    /// A number of sweeps, of which a matrix takes part until it has converged.
    pub(super) fn sweep(&self, gpu: &Gpu, sweeps: usize) -> Result<()> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            batch: u32,
            size: u32,
            players: u32,
            first_round: u32,
            last_round: u32,
        }
        let players = self.size.next_multiple_of(2);
        let rounds = players - 1;
        let workgroup = workgroup(gpu, self.size * self.size);
        // One-sided: invocations that share a pair of rows; at least as many as fill a memory transaction.
        let lanes = (workgroup / (players / 2).next_power_of_two()).clamp(8, 32);
        let pairs = players / 2;
        let round = if self.symmetric {
            2 + iterations(pairs * pairs, workgroup) + iterations(pairs * self.size, workgroup)
        } else {
            let passes = iterations(pairs, workgroup / lanes);
            1 + passes * (1 + 3 * iterations(self.size, lanes) + lanes.ilog2() as usize)
        };
        let step = (BUDGET / round).max(1);
        for _ in 0..sweeps {
            for first_round in (0..rounds).step_by(step) {
                let params = Params {
                    batch: self.batch as u32,
                    size: self.size as u32,
                    players: players as u32,
                    first_round: first_round as u32,
                    last_round: (first_round + step).min(rounds) as u32,
                };
                let dispatch = if self.symmetric {
                    Dispatch::new("jacobi_eigen", "main", Source::Wgsl(EIGEN))
                } else {
                    Dispatch::new("jacobi_svd", "main", Source::Wgsl(SVD)).constant("LANES", lanes as f64)
                };
                dispatch
                    .constant("WORKGROUP", workgroup as f64)
                    .write(&self.states)
                    .write(&self.w)
                    .write(&self.rotations)
                    .params(&params)
                    .run(gpu, linear_grid(self.batch, 1))?;
            }
        }
        Ok(())
    }

    /// The sorted values `[batch, n]` and the row that each belongs to.
    fn rank(&self, gpu: &Gpu) -> Result<(Tensor, Tensor)> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            batch: u32,
            size: u32,
        }
        let shape = Shape::new(&[self.batch, self.size])?;
        let values = Tensor::uninitialised(self.w.device(), "jacobi", shape, DType::F32)?;
        let order = Tensor::uninitialised(self.w.device(), "jacobi", shape, DType::U32)?;
        Dispatch::new("jacobi_rank", "main", Source::Wgsl(RANK))
            .constant("WORKGROUP", 256.0)
            .constant("LANES", 8.0)
            .constant("EIGEN", f64::from(u8::from(self.symmetric)))
            .read(&self.w)
            .read(&self.units)
            .write(&values)
            .write(&order)
            .params(&Params { batch: self.batch as u32, size: self.size as u32 })
            .run(gpu, linear_grid(self.batch, 1))?;
        Ok((values, order))
    }
}

/// The rows of `x` `[batch, n, n]` in the order of `order` `[batch, n]`; both start at offset 0.
fn reorder_rows(gpu: &Gpu, x: &Tensor, order: &Tensor) -> Result<Tensor> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        count: u32,
        size: u32,
    }
    let out = Tensor::uninitialised(x.device(), "jacobi", *x.shape(), DType::F32)?;
    Dispatch::new("jacobi_rows", "main", Source::Wgsl(ROWS))
        .read(x)
        .read(order)
        .write(&out)
        .params(&Params { count: x.elements() as u32, size: x.shape()[1] as u32 })
        .run(gpu, linear_grid(x.elements(), 256))?;
    Ok(out)
}

/// For each row of `x` `[batch, rows, length]`, at offset 0, the sign `[batch, rows, 1]` that makes its largest
/// component positive.
fn row_signs(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::NoUninit)]
    struct Params {
        rows: u32,
        length: u32,
    }
    let (batch, rows, length) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let signs = Tensor::uninitialised(x.device(), "jacobi", Shape::new(&[batch, rows, 1])?, DType::F32)?;
    Dispatch::new("row_signs", "main", Source::Wgsl(SIGNS))
        .read(x)
        .write(&signs)
        .params(&Params { rows: (batch * rows) as u32, length: length as u32 })
        .run(gpu, linear_grid(batch * rows, 256 / 32))?;
    Ok(signs)
}
