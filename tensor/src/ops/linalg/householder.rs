//! The GPU's QR: launches of `factor.wgsl`, `start.wgsl`, `apply.wgsl` and `triangle.wgsl`.

use super::gpu::{BUDGET, iterations, workgroup};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

pub(super) const FACTOR: &str =
    concat!(include_str!("factor.wgsl"), include_str!("reduce.wgsl"), include_str!("reduce_all.wgsl"));
pub(super) const APPLY: &str = concat!(include_str!("apply.wgsl"), include_str!("reduce.wgsl"));
pub(super) const START: &str = include_str!("start.wgsl");
pub(super) const TRIANGLE: &str = include_str!("triangle.wgsl");

/// Matrices `[batch, rows, columns]` as R and reflections; see `factor.wgsl`.
pub(super) struct Reflections {
    batch: usize,
    rows: usize,
    columns: usize,
    /// `[batch, columns, rows]`
    w: Tensor,
    /// `[batch, inner]`
    tau: Tensor,
}

/// Invocations of a workgroup and of the groups that share a column.
fn group_sizes(gpu: &Gpu, rows: usize, columns: usize) -> (usize, usize) {
    let workgroup = workgroup(gpu, rows * columns);
    (workgroup, (workgroup / columns.next_power_of_two()).clamp(16, workgroup))
}

impl Reflections {
    /// Factors matrices that are stored by columns, `[batch, columns, rows]`, in place: the storage must be unique.
    pub fn new(gpu: &Gpu, w: Tensor) -> Result<Self> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            batch: u32,
            rows: u32,
            columns: u32,
            first: u32,
            last: u32,
        }
        let (batch, columns, rows) = (w.shape()[0], w.shape()[1], w.shape()[2]);
        let inner = rows.min(columns);
        let tau = Tensor::uninitialised(w.device(), "qr", Shape::new(&[batch, inner])?, DType::F32)?;
        let (workgroup, lanes) = group_sizes(gpu, rows, columns);
        let reflect = 3 * iterations(rows, workgroup) + 2 * workgroup.ilog2() as usize;
        let update = 2 * iterations(rows, lanes) + lanes.ilog2() as usize + 1;
        let step = reflect + iterations(columns, workgroup / lanes) * update + 1;
        let steps = (BUDGET / step).max(1);
        for first in (0..inner).step_by(steps) {
            let params = Params {
                batch: batch as u32,
                rows: rows as u32,
                columns: columns as u32,
                first: first as u32,
                last: (first + steps).min(inner) as u32,
            };
            Dispatch::new("qr_factor", "main", Source::Wgsl(FACTOR))
                .constant("WORKGROUP", workgroup as f64)
                .constant("LANES", lanes as f64)
                .write(&w)
                .write(&tau)
                .params(&params)
                .run(gpu, linear_grid(batch, 1))?;
        }
        Ok(Reflections { batch, rows, columns, w, tau })
    }

    fn inner(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// R `[batch, inner, columns]`, its diagonal not negative.
    pub fn triangle(&self, gpu: &Gpu) -> Result<Tensor> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            count: u32,
            rows: u32,
            columns: u32,
            inner: u32,
        }
        let shape = Shape::new(&[self.batch, self.inner(), self.columns])?;
        let out = Tensor::uninitialised(self.w.device(), "qr", shape, DType::F32)?;
        let params = Params {
            count: shape.elements() as u32,
            rows: self.rows as u32,
            columns: self.columns as u32,
            inner: self.inner() as u32,
        };
        Dispatch::new("qr_triangle", "main", Source::Wgsl(TRIANGLE))
            .read(&self.w)
            .write(&out)
            .params(&params)
            .run(gpu, linear_grid(shape.elements(), 256))?;
        Ok(out)
    }

    /// The columns of the thin Q, `[batch, inner, rows]`.
    pub fn orthogonal(&self, gpu: &Gpu) -> Result<Tensor> {
        let columns = self.start(gpu, None)?;
        self.apply(gpu, columns, true)
    }

    /// The columns of Q·X, `[batch, columns of X, rows]`, from those of X `[batch, columns of X, inner]`, contiguous
    /// at offset 0.
    pub fn orthogonal_times(&self, gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
        let columns = self.start(gpu, Some(x))?;
        self.apply(gpu, columns, false)
    }

    fn start(&self, gpu: &Gpu, x: Option<&Tensor>) -> Result<Tensor> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            count: u32,
            rows: u32,
            factor_columns: u32,
            columns: u32,
            inner: u32,
        }
        let columns = x.map_or(self.inner(), |x| x.shape()[1]);
        let shape = Shape::new(&[self.batch, columns, self.rows])?;
        let out = Tensor::uninitialised(self.w.device(), "qr", shape, DType::F32)?;
        let params = Params {
            count: shape.elements() as u32,
            rows: self.rows as u32,
            factor_columns: self.columns as u32,
            columns: columns as u32,
            inner: self.inner() as u32,
        };
        Dispatch::new("qr_start", "main", Source::Wgsl(START))
            .constant("GIVEN", f64::from(u8::from(x.is_some())))
            .read(&self.w)
            // Without a given matrix the kernel does not look at this binding.
            .read(x.unwrap_or(&self.tau))
            .write(&out)
            .params(&params)
            .run(gpu, linear_grid(shape.elements(), 256))?;
        Ok(out)
    }

    /// Applies the reflections to `x` `[batch, columns, rows]` in place: its storage is unique.
    fn apply(&self, gpu: &Gpu, x: Tensor, triangular: bool) -> Result<Tensor> {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::NoUninit)]
        struct Params {
            batch: u32,
            rows: u32,
            factor_columns: u32,
            columns: u32,
            first: u32,
            last: u32,
        }
        let columns = x.shape()[1];
        let (workgroup, lanes) = group_sizes(gpu, self.rows, columns);
        let update = 2 * iterations(self.rows, lanes) + lanes.ilog2() as usize + 1;
        let steps = (BUDGET / (iterations(columns, workgroup / lanes) * update + 1)).max(1);
        // The last reflection comes first.
        let mut last = self.inner();
        while last > 0 {
            let first = last.saturating_sub(steps);
            let params = Params {
                batch: self.batch as u32,
                rows: self.rows as u32,
                factor_columns: self.columns as u32,
                columns: columns as u32,
                first: first as u32,
                last: last as u32,
            };
            Dispatch::new("qr_apply", "main", Source::Wgsl(APPLY))
                .constant("WORKGROUP", workgroup as f64)
                .constant("LANES", lanes as f64)
                .constant("TRIANGULAR", f64::from(u8::from(triangular)))
                .read(&self.w)
                .read(&self.tau)
                .write(&x)
                .params(&params)
                .run(gpu, linear_grid(self.batch, 1))?;
            last = first;
        }
        Ok(x)
    }
}
