//! Launch of the generated kernels.

use super::generator::{Config, Form, MOST_WORDS, THREADS};
use super::{EXPONENTS, RowScaled};
use crate::dtype::DType;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Source, Tiles, linear_grid, row_team};
use crate::ops::matmul::reads_tiles;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Inputs that a kernel can have.
const MOST_INPUTS: usize = 3;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Params {
    rows: u32,
    columns: u32,
    vectors: u32,
    lowest: i32,
    highest: i32,
    numbers: RowNumbers,
    offsets: [u32; MOST_INPUTS],
}

/// What a kernel's own text may compute with, by the names that it uses: `params.epsilon` and so on.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::NoUninit)]
pub(crate) struct RowNumbers {
    pub epsilon: f32,
    pub scale: f32,
    pub ignore: i32,
}

/// An input of a [`RowKernel`].
pub(crate) enum RowInput<'a> {
    /// Contiguous f32 rows.
    Rows(&'a Tensor),
    /// One contiguous f32 row that all rows are combined with.
    Shared(&'a Tensor),
    /// Rounded rows.
    Rounded(&'a RowScaled),
    /// An f32 for each row, contiguous.
    Floats(&'a Tensor),
    /// An i32 for each row, contiguous.
    Integers(&'a Tensor),
}

/// A kernel that computes rows and rounds them; [`Config`] says what its text consists of.
pub(crate) struct RowKernel<'a> {
    pub name: &'static str,
    pub text: &'static str,
    /// With the names that the text's readers know them by; three at the most.
    pub inputs: Vec<(&'static str, RowInput<'a>)>,
    /// Rows and columns of each input and output; neither is 0.
    pub shape: [usize; 2],
    /// So many of the outputs, the first ones, are for products to read.
    pub operands: usize,
    pub numbers: RowNumbers,
}

/// By the number of matrices: kernels that round them, together.
const KERNELS: [(&str, &str); MOST_INPUTS] = [
    ("row_scaled", include_str!("kernels/identity.wgsl")),
    ("row_scaled_two", include_str!("kernels/identity_two.wgsl")),
    ("row_scaled_three", include_str!("kernels/identity_three.wgsl")),
];

/// Rounds contiguous f32 matrices of one shape, which have elements: in one launch as many as stay in registers.
pub(super) fn round(gpu: &Gpu, xs: &[Tensor]) -> Result<Vec<RowScaled>> {
    let [rows, columns] = [xs[0].shape()[0], xs[0].shape()[1]];
    let words = columns.div_ceil(super::ALIGNMENT).div_ceil(row_team(columns)) * super::ALIGNMENT;
    let mut rounded = Vec::with_capacity(xs.len());
    for xs in xs.chunks((MOST_WORDS / words).clamp(1, MOST_INPUTS)) {
        let (name, text) = KERNELS[xs.len() - 1];
        let inputs = ["x", "y", "z"].into_iter().zip(xs.iter().map(RowInput::Rows)).collect();
        let operands = xs.len();
        let kernel = RowKernel { name, text, inputs, shape: [rows, columns], operands, numbers: RowNumbers::default() };
        rounded.extend(kernel.run_for(gpu, xs.len())?);
    }
    Ok(rounded)
}

impl RowKernel<'_> {
    /// Computes and rounds `N` matrices.
    pub fn run<const N: usize>(&self, gpu: &Gpu) -> Result<[RowScaled; N]> {
        // Proof: as many as are asked for.
        Ok(self.run_for(gpu, N)?.try_into().expect("N matrices"))
    }

    /// Computes and rounds as many matrices as the text makes.
    fn run_for(&self, gpu: &Gpu, count: usize) -> Result<Vec<RowScaled>> {
        self.run_in_tiles(gpu, count, if reads_tiles(gpu, self.shape) { self.operands } else { 0 })
    }

    /// The same, so many of them in tiles: then the extents are multiples of a tile's.
    pub(super) fn run_in_tiles(&self, gpu: &Gpu, count: usize, in_tiles: usize) -> Result<Vec<RowScaled>> {
        let [rows, columns] = self.shape;
        let device = match self.inputs[0].1 {
            RowInput::Rows(x) | RowInput::Shared(x) | RowInput::Floats(x) | RowInput::Integers(x) => x.device(),
            RowInput::Rounded(x) => x.device(),
        };
        let scales = Tensor::uninitialised(device, self.name, Shape::new(&[count, rows])?, DType::F32)?;
        let mut outputs = Vec::with_capacity(count);
        for output in 0..count {
            let values = Tensor::uninitialised(device, self.name, super::padded(rows, columns)?, DType::F16)?;
            outputs.push(RowScaled { values: values.slice(1, 0, columns)?, scales: scales.select(0, output)? });
        }
        self.launch(gpu, &outputs, &scales, gpu.cooperative.usable(), in_tiles)?;
        Ok(outputs)
    }

    fn launch(&self, gpu: &Gpu, outputs: &[RowScaled], scales: &Tensor, native: bool, in_tiles: usize) -> Result<()> {
        let [rows, columns] = self.shape;
        let vectors = columns.div_ceil(super::ALIGNMENT);
        // Invocations that share a row, or two of them.
        let (team, rows_of_team) = match in_tiles {
            0 => (row_team(columns), 1),
            // Whole subgroups.
            _ => (vectors.next_power_of_two().clamp(32, THREADS[1]), 2),
        };
        let mut offsets = [0; MOST_INPUTS];
        let mut aligned = columns.is_multiple_of(super::ALIGNMENT);
        let mut forms = Vec::with_capacity(MOST_INPUTS);
        for (offset, (name, input)) in offsets.iter_mut().zip(&self.inputs) {
            let (form, begin) = match input {
                RowInput::Rows(x) => (Form::Rows, x.layout.offset),
                RowInput::Shared(x) => (Form::Shared, x.layout.offset),
                RowInput::Rounded(x) => (Form::Rounded, x.scales.layout.offset),
                RowInput::Floats(x) => (Form::Number("f32"), x.layout.offset),
                RowInput::Integers(x) => (Form::Number("i32"), x.layout.offset),
            };
            aligned &= !matches!(form, Form::Rows | Form::Shared) || begin.is_multiple_of(super::ALIGNMENT);
            *offset = begin as u32;
            forms.push((*name, form));
        }
        let config = Config {
            inputs: &forms,
            outputs: outputs.len(),
            text: self.text,
            vectors: vectors.div_ceil(team),
            aligned,
            native,
            in_tiles,
        };
        let params = Params {
            rows: rows as u32,
            columns: columns as u32,
            vectors: vectors as u32,
            lowest: EXPONENTS[0],
            highest: EXPONENTS[1],
            numbers: self.numbers,
            offsets,
        };
        let wgsl = || config.wgsl();
        // Inputs are bound as if they were written to, so that the driver keeps them in registers and does not read them
        // again after the barriers.
        let mut dispatch = Dispatch::new(format!("{}{}", self.name, config.suffix()), "main", Source::Generated(&wgsl))
            .constant("TEAM", team as f64)
            .params(&params);
        for (_, input) in &self.inputs {
            dispatch = match input {
                RowInput::Rows(x) | RowInput::Shared(x) | RowInput::Floats(x) | RowInput::Integers(x) => {
                    dispatch.write(x)
                }
                RowInput::Rounded(x) => dispatch.write(&x.values).write(&x.scales),
            };
        }
        for (number, output) in outputs.iter().enumerate() {
            dispatch = match number < in_tiles {
                true => dispatch.write_tiles(&output.values, Tiles::Left(columns)),
                false => dispatch.write(&output.values),
            };
        }
        let teams = THREADS[usize::from(in_tiles > 0)] / team;
        dispatch.write(scales).run(gpu, linear_grid(rows, teams * rows_of_team))
    }
}
