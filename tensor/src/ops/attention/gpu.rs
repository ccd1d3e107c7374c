//! Choice of the kernels' configurations and their launches.

use super::generate::{Config, Kernel, ROWS_PER_BLOCK_ROW, generate};
use super::{AttentionOutput, Problem};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, linear_grid};
use crate::shape::Shape;
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    q: [u32; 4],
    k: [u32; 4],
    v: [u32; 4],
    upstream: [u32; 4],
    mask: [u32; 4],
    batch: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    query_offset: u32,
    row_blocks: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct RowTermsParams {
    upstream: [u32; 4],
    output_offset: u32,
    log_sum_exp_offset: u32,
    rows: u32,
    queries: u32,
    heads: u32,
    head_dim: u32,
    padding: [u32; 2],
}

/// Operands whose heads' elements lie side by side, as the kernels read them.
struct Operands {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    upstream: Option<Tensor>,
}

impl Operands {
    fn new(problem: &Problem<'_>, upstream: Option<&Tensor>) -> Result<Self> {
        Ok(Operands {
            q: dense_heads(problem.q)?,
            k: dense_heads(problem.k)?,
            v: dense_heads(problem.v)?,
            upstream: upstream.map(dense_heads).transpose()?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.q, &self.k, &self.v].into_iter().chain(&self.upstream)
    }

    /// True when every vector of four elements of a head starts at a multiple of four.
    fn aligned(&self) -> bool {
        self.all()
            .all(|tensor| placement(tensor).iter().all(|place| place.is_multiple_of(4)) && tensor.shape()[3] % 4 == 0)
    }
}

fn dense_heads(tensor: &Tensor) -> Result<Tensor> {
    let dense = tensor.layout.strides[3] == 1 || tensor.shape()[3] == 1;
    if dense { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// Offset, then strides of batch, sequence and head.
fn placement(tensor: &Tensor) -> [u32; 4] {
    let strides = &tensor.layout.strides;
    [tensor.layout.offset as u32, strides[0] as u32, strides[1] as u32, strides[2] as u32]
}

/// The tile for a kernel whose rows have `rows` in all.
fn configure(problem: &Problem<'_>, kernel: Kernel, rows: usize, aligned: bool) -> Config {
    // The accumulators of dk and dv, or of one long head, take 128 registers at the most.
    let results = if kernel == Kernel::KeyValueGradient { 2 } else { 1 };
    let largest = if results * problem.head_dim > 256 { 2 } else { 4 };
    let block_rows = match rows.div_ceil(ROWS_PER_BLOCK_ROW) {
        0 | 1 => 1,
        2 => 2,
        _ => largest,
    };
    Config { kernel, head_dim: problem.head_dim, block_rows, aligned }
}

fn params(problem: &Problem<'_>, operands: &Operands, row_blocks: usize) -> Params {
    let mask = problem.key_mask.map_or([0; 4], |mask| {
        [mask.layout.offset as u32, mask.layout.strides[0] as u32, mask.layout.strides[1] as u32, 1]
    });
    Params {
        q: placement(&operands.q),
        k: placement(&operands.k),
        v: placement(&operands.v),
        upstream: operands.upstream.as_ref().map_or([0; 4], placement),
        mask,
        batch: problem.batch as u32,
        heads: problem.heads as u32,
        kv_heads: problem.kv_heads as u32,
        queries: problem.queries as u32,
        keys: problem.keys as u32,
        query_offset: problem.query_offset as u32,
        row_blocks: row_blocks as u32,
        scale: problem.scale,
    }
}

pub(super) fn attention(gpu: &Gpu, problem: &Problem<'_>) -> Result<AttentionOutput> {
    let device = problem.q.device();
    let output = Tensor::uninitialised(device, "attention", *problem.q.shape(), DType::F32)?;
    let log_sum_exp = Tensor::uninitialised(device, "attention", problem.log_sum_exp_shape()?, DType::F32)?;
    let operands = Operands::new(problem, None)?;
    let config = configure(problem, Kernel::Forward, problem.queries, operands.aligned());
    launch(gpu, problem, &operands, None, &config, &[&output, &log_sum_exp])?;
    Ok(AttentionOutput { output, log_sum_exp })
}

pub(super) fn attention_backward(
    gpu: &Gpu,
    problem: &Problem<'_>,
    forward: &AttentionOutput,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    const NAME: &str = "attention_backward";
    let device = problem.q.device();
    let dq = Tensor::uninitialised(device, NAME, *problem.q.shape(), DType::F32)?;
    let dk = Tensor::uninitialised(device, NAME, *problem.k.shape(), DType::F32)?;
    let dv = Tensor::uninitialised(device, NAME, *problem.v.shape(), DType::F32)?;
    let operands = Operands::new(problem, Some(upstream))?;
    let aligned = operands.aligned();
    let terms = row_terms(gpu, problem, &operands, forward)?;
    let config = configure(problem, Kernel::QueryGradient, problem.queries, aligned);
    launch(gpu, problem, &operands, Some(&terms), &config, &[&dq])?;
    let config = configure(problem, Kernel::KeyValueGradient, problem.keys, aligned);
    launch(gpu, problem, &operands, Some(&terms), &config, &[&dk, &dv])?;
    Ok((dq, dk, dv))
}

fn launch(
    gpu: &Gpu,
    problem: &Problem<'_>,
    operands: &Operands,
    terms: Option<&Tensor>,
    config: &Config,
    outputs: &[&Tensor],
) -> Result<()> {
    let (rows, heads) = match config.kernel {
        Kernel::Forward | Kernel::QueryGradient => (problem.queries, problem.heads),
        Kernel::KeyValueGradient => (problem.keys, problem.kv_heads),
    };
    let row_blocks = rows.div_ceil(config.rows());
    let source = || generate(config);
    let mut dispatch = Dispatch::new(config.name(), "main", Source::Generated(&source));
    for operand in operands.all() {
        dispatch = dispatch.read(operand);
    }
    // Without a mask something must be bound in its place; it is not read.
    for operand in terms.into_iter().chain([problem.key_mask.unwrap_or(problem.q)]) {
        dispatch = dispatch.read(operand);
    }
    for output in outputs {
        dispatch = dispatch.write(output);
    }
    dispatch.params(&params(problem, operands, row_blocks)).run(gpu, linear_grid(row_blocks * problem.batch * heads, 1))
}

/// `[batch, heads, queries, 2]`: log_sum_exp and Σ upstream·output.
fn row_terms(gpu: &Gpu, problem: &Problem<'_>, operands: &Operands, forward: &AttentionOutput) -> Result<Tensor> {
    let &Problem { batch, heads, queries, head_dim, .. } = problem;
    let shape = Shape::new(&[batch, heads, queries, 2])?;
    let terms = Tensor::uninitialised(problem.q.device(), "attention_backward", shape, DType::F32)?;
    let Some(upstream) = &operands.upstream else {
        return Ok(terms);
    };
    let params = RowTermsParams {
        upstream: placement(upstream),
        output_offset: forward.output.layout.offset as u32,
        log_sum_exp_offset: forward.log_sum_exp.layout.offset as u32,
        rows: (batch * heads * queries) as u32,
        queries: queries as u32,
        heads: heads as u32,
        head_dim: head_dim as u32,
        padding: [0; 2],
    };
    Dispatch::new("attention_row_terms", "main", Source::Wgsl(include_str!("kernels/row_terms.wgsl")))
        .read(upstream)
        .read(&forward.output)
        .read(&forward.log_sum_exp)
        .write(&terms)
        .params(&params)
        .run(gpu, linear_grid(batch * heads * queries, 16))?;
    Ok(terms)
}
