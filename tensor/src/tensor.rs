//! The tensor handle: shared storage plus a layout. Views (transpose, slice, broadcast, reshape where possible)
//! share storage; values never change under a holder, because the few in-place updates copy storage that is shared.

use std::fmt;
use std::sync::Arc;

use crate::cpu::{CpuStorage, cpu};
use crate::device::{Backend, Device};
use crate::dtype::{DType, Element};
use crate::error::{Result, TensorError};
use crate::gpu::GpuStorage;
use crate::shape::{Layout, MAX_RANK, Shape};

#[derive(Clone)]
pub(crate) enum Storage {
    Cpu(Arc<CpuStorage>),
    Gpu(Arc<GpuStorage>),
}

/// An n-dimensional array on one device. Cloning is cheap and shares the elements.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) storage: Storage,
    pub(crate) layout: Layout,
    dtype: DType,
    device: Device,
}

impl Tensor {
    /// A tensor from row-major values.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the number of values is not the shape's, or the device's own errors.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], values: &[T]) -> Result<Self> {
        let shape = checked_count(shape, values.len())?;
        match device.backend() {
            Backend::Cpu => {
                let mut owned = cpu().scratch::<T>(values.len());
                owned.copy_from_slice(values);
                Ok(Self::from_cpu_vec(shape, owned))
            }
            Backend::Gpu(gpu) => {
                let storage = gpu.upload("from_slice", bytemuck::cast_slice(values))?;
                Ok(Self::from_gpu(device, shape, T::DTYPE, storage))
            }
        }
    }

    /// A tensor from row-major values that are given up, without a copy on the CPU.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_vec<T: Element>(device: &Device, shape: &[usize], values: Vec<T>) -> Result<Self> {
        match device.backend() {
            Backend::Cpu => Ok(Self::from_cpu_vec(checked_count(shape, values.len())?, values)),
            Backend::Gpu(_) => Self::from_slice(device, shape, &values),
        }
    }

    /// A tensor from the little-endian bytes of row-major elements, as checkpoints store them.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the number of bytes is not the shape's, or the device's own errors.
    pub fn from_bytes(device: &Device, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self> {
        let shape = Shape::new(shape)?;
        if bytes.len() != shape.elements() * dtype.bytes() {
            return Err(TensorError::Shape {
                operation: "from_bytes",
                expected: format!("a {dtype} shape of {} bytes", bytes.len()),
                found: shape,
            });
        }
        fn typed<T: Element>(device: &Device, shape: Shape, bytes: &[u8]) -> Result<Tensor> {
            match device.backend() {
                Backend::Cpu => {
                    let mut owned = cpu().scratch::<T>(shape.elements());
                    bytemuck::cast_slice_mut(&mut owned).copy_from_slice(bytes);
                    Ok(Tensor::from_cpu_vec(shape, owned))
                }
                Backend::Gpu(gpu) => Ok(Tensor::from_gpu(device, shape, T::DTYPE, gpu.upload("from_bytes", bytes)?)),
            }
        }
        match dtype {
            DType::F32 => typed::<f32>(device, shape, bytes),
            DType::F16 => typed::<half::f16>(device, shape, bytes),
            DType::Bf16 => typed::<half::bf16>(device, shape, bytes),
            DType::U32 => typed::<u32>(device, shape, bytes),
            DType::I32 => typed::<i32>(device, shape, bytes),
        }
    }

    /// A scalar (shape `[]`).
    ///
    /// # Errors
    /// The device's own errors.
    pub fn scalar<T: Element>(device: &Device, value: T) -> Result<Self> {
        Self::from_slice(device, &[], &[value])
    }

    /// The tensor's shape.
    pub fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.layout.shape.rank()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.layout.shape.elements()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device the elements are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// True when the elements lie side by side in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// Whether both are handles of the same elements in the same order, so that they are equal without a look at them.
    pub fn is_same_view(&self, other: &Tensor) -> bool {
        let same_storage = match (&self.storage, &other.storage) {
            (Storage::Cpu(own), Storage::Cpu(other)) => Arc::ptr_eq(own, other),
            (Storage::Gpu(own), Storage::Gpu(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        same_storage && self.layout == other.layout
    }

    /// Exchanges two axes without a copy.
    ///
    /// # Errors
    /// [`TensorError::Axis`] when an axis does not exist.
    pub fn transpose(&self, first: usize, second: usize) -> Result<Self> {
        self.check_axis("transpose", first)?;
        self.check_axis("transpose", second)?;
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(first, second);
        self.permute(&order)
    }

    /// The matrix transpose: exchanges the last two axes without a copy.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for fewer than two axes.
    pub fn t(&self) -> Result<Self> {
        match self.rank() {
            0 | 1 => Err(TensorError::Shape {
                operation: "t",
                expected: "at least two axes".into(),
                found: self.layout.shape,
            }),
            rank => self.transpose(rank - 2, rank - 1),
        }
    }

    /// Reorders the axes without a copy: axis `i` of the result is axis `order[i]` of this tensor.
    ///
    /// # Errors
    /// [`TensorError::InvalidArgument`] when `order` is not a permutation of the axes.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut seen = [false; MAX_RANK];
        let valid = order.len() == self.rank()
            && order.iter().all(|&axis| axis < self.rank() && !std::mem::replace(&mut seen[axis], true));
        if !valid {
            return Err(TensorError::InvalidArgument {
                operation: "permute",
                message: format!("{order:?} is not a permutation of the axes of {}", self.layout.shape),
            });
        }
        let mut layout = self.layout;
        for (target, &source) in order.iter().enumerate() {
            layout.shape = layout.shape.with_extent(target, self.layout.shape[source]);
            layout.strides[target] = self.layout.strides[source];
        }
        Ok(self.view(layout))
    }

    /// The elements `start..end` of one axis, without a copy.
    ///
    /// # Errors
    /// [`TensorError::Axis`] or [`TensorError::InvalidArgument`] when the range does not lie within the axis.
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Result<Self> {
        self.check_axis("slice", axis)?;
        if start > end || end > self.layout.shape[axis] {
            return Err(TensorError::InvalidArgument {
                operation: "slice",
                message: format!("range {start}..{end} does not lie within axis {axis} of {}", self.layout.shape),
            });
        }
        let mut layout = self.layout;
        if start < end {
            layout.offset += start * layout.strides[axis];
        }
        layout.shape = layout.shape.with_extent(axis, end - start);
        Ok(self.view(layout))
    }

    /// Element `index` of one axis, which disappears; no copy.
    ///
    /// # Errors
    /// As [`Tensor::slice`].
    pub fn select(&self, axis: usize, index: usize) -> Result<Self> {
        self.slice(axis, index, index + 1)?.squeeze(axis)
    }

    /// Removes an axis of extent 1; no copy.
    ///
    /// # Errors
    /// [`TensorError::Axis`], or [`TensorError::Shape`] when the extent is not 1.
    pub fn squeeze(&self, axis: usize) -> Result<Self> {
        self.check_axis("squeeze", axis)?;
        if self.layout.shape[axis] != 1 {
            return Err(TensorError::Shape {
                operation: "squeeze",
                expected: format!("extent 1 at axis {axis}"),
                found: self.layout.shape,
            });
        }
        let mut layout = Layout { shape: self.layout.shape.without_axis(axis), ..self.layout };
        layout.strides.copy_within(axis + 1.., axis);
        Ok(self.view(layout))
    }

    /// Inserts an axis of extent 1 before `axis`; no copy.
    ///
    /// # Errors
    /// [`TensorError::Axis`], or [`TensorError::InvalidArgument`] when the rank would grow too large.
    pub fn unsqueeze(&self, axis: usize) -> Result<Self> {
        if axis > self.rank() {
            return Err(TensorError::Axis { operation: "unsqueeze", axis, shape: self.layout.shape });
        }
        let mut extents = self.layout.shape.to_vec();
        extents.insert(axis, 1);
        let mut layout = Layout { shape: Shape::new(&extents)?, ..self.layout };
        layout.strides.copy_within(axis..MAX_RANK - 1, axis + 1);
        layout.strides[axis] = 0;
        Ok(self.view(layout))
    }

    /// The tensor seen with a larger shape by repeating axes of extent 1; no copy.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] when the shapes do not broadcast to exactly `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        let target = Shape::new(shape)?;
        if Shape::broadcast("broadcast_to", &self.layout.shape, &target)? != target {
            return Err(TensorError::Broadcast { operation: "broadcast_to", left: self.layout.shape, right: target });
        }
        Ok(self.view(self.layout.broadcast_to(&target)))
    }

    /// The same elements in row-major order under another shape. Copies only where the strides leave no choice.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let shape = Shape::new(shape)?;
        if shape.elements() != self.elements() {
            return Err(TensorError::Shape {
                operation: "reshape",
                expected: format!("{} elements, as {} has", self.elements(), self.layout.shape),
                found: shape,
            });
        }
        if self.elements() == 0 {
            return Ok(self.view(Layout { offset: self.layout.offset, ..Layout::contiguous(shape) }));
        }
        match self.layout.reshape(shape) {
            Some(layout) => Ok(self.view(layout)),
            None => {
                let copy = self.contiguous()?;
                Ok(copy.view(Layout::contiguous(shape)))
            }
        }
    }

    /// The tensor as a matrix of rows along its last axis; a scalar is one row. Copies as [`Tensor::reshape`] does.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn as_rows(&self) -> Result<Self> {
        let columns = self.shape().last().copied().unwrap_or(1);
        let rows = self.shape().iter().rev().skip(1).product();
        self.reshape(&[rows, columns])
    }

    /// The elements in row-major order, on the host. Waits for the device.
    ///
    /// # Errors
    /// [`TensorError::DType`] when `T` is not the tensor's element type, or the device's own errors.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype("to_vec", T::DTYPE)?;
        let dense = self.contiguous()?;
        match &dense.storage {
            Storage::Cpu(_) => Ok(dense.cpu_slice::<T>()?.to_vec()),
            Storage::Gpu(storage) => {
                let start = dense.layout.offset * self.dtype.bytes();
                let bytes = storage.gpu().download(storage, start as u64, dense.elements() * self.dtype.bytes())?;
                Ok(bytemuck::pod_collect_to_vec(&bytes))
            }
        }
    }

    /// The one element of a tensor that has exactly one. Waits for the device.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for another number of elements; otherwise as [`Tensor::to_vec`].
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.to_vec::<T>()?[..] {
            [value] => Ok(value),
            _ => Err(TensorError::Shape {
                operation: "item",
                expected: "exactly one element".into(),
                found: self.layout.shape,
            }),
        }
    }

    /// The same elements on another device (this tensor itself where it is there already).
    ///
    /// # Errors
    /// The devices' own errors.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if &self.device == device {
            return Ok(self.clone());
        }
        match self.dtype {
            DType::F32 => Self::from_vec(device, self.shape(), self.to_vec::<f32>()?),
            DType::F16 => Self::from_vec(device, self.shape(), self.to_vec::<half::f16>()?),
            DType::Bf16 => Self::from_vec(device, self.shape(), self.to_vec::<half::bf16>()?),
            DType::U32 => Self::from_vec(device, self.shape(), self.to_vec::<u32>()?),
            DType::I32 => Self::from_vec(device, self.shape(), self.to_vec::<i32>()?),
        }
    }

    pub(crate) fn from_cpu_vec<T: Element>(shape: Shape, values: Vec<T>) -> Self {
        debug_assert_eq!(shape.elements(), values.len());
        Tensor {
            storage: Storage::Cpu(Arc::new(CpuStorage::new(T::wrap(values)))),
            layout: Layout::contiguous(shape),
            dtype: T::DTYPE,
            device: Device::cpu(),
        }
    }

    pub(crate) fn from_gpu(device: &Device, shape: Shape, dtype: DType, storage: GpuStorage) -> Self {
        Tensor {
            storage: Storage::Gpu(Arc::new(storage)),
            layout: Layout::contiguous(shape),
            dtype,
            device: device.clone(),
        }
    }

    /// A contiguous tensor with unspecified contents, for an operation to fill.
    pub(crate) fn uninitialised(device: &Device, operation: &'static str, shape: Shape, dtype: DType) -> Result<Self> {
        match device.backend() {
            Backend::Cpu => Ok(match dtype {
                DType::F32 => Self::from_cpu_vec(shape, cpu().scratch::<f32>(shape.elements())),
                DType::F16 => Self::from_cpu_vec(shape, cpu().scratch::<half::f16>(shape.elements())),
                DType::Bf16 => Self::from_cpu_vec(shape, cpu().scratch::<half::bf16>(shape.elements())),
                DType::U32 => Self::from_cpu_vec(shape, cpu().scratch::<u32>(shape.elements())),
                DType::I32 => Self::from_cpu_vec(shape, cpu().scratch::<i32>(shape.elements())),
            }),
            Backend::Gpu(gpu) => {
                let storage = gpu.allocate(operation, (shape.elements() * dtype.bytes()) as u64)?;
                Ok(Self::from_gpu(device, shape, dtype, storage))
            }
        }
    }

    pub(crate) fn view(&self, mut layout: Layout) -> Self {
        if layout.shape.elements() == 0 {
            // Nothing is selected, and the offset of a view into nothing may lie beyond the storage.
            layout.offset = 0;
        }
        Tensor { storage: self.storage.clone(), layout, dtype: self.dtype, device: self.device.clone() }
    }

    /// The elements of a contiguous CPU tensor.
    pub(crate) fn cpu_slice<T: Element>(&self) -> Result<&[T]> {
        debug_assert!(self.is_contiguous());
        let all = self.cpu_storage_slice::<T>()?;
        Ok(&all[self.layout.offset..self.layout.offset + self.elements()])
    }

    /// The whole storage behind a CPU tensor, to be read through the layout.
    pub(crate) fn cpu_storage_slice<T: Element>(&self) -> Result<&[T]> {
        match &self.storage {
            Storage::Cpu(storage) => T::slice(storage.buffer()).ok_or_else(|| self.dtype_error("cpu", T::DTYPE)),
            Storage::Gpu(_) => Err(self.device_error("cpu", &Device::cpu())),
        }
    }

    /// The elements of a contiguous CPU tensor, to be written. Copies the storage first if anyone else holds it,
    /// so that no other tensor sees the change.
    pub(crate) fn cpu_slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        if !self.is_contiguous() {
            *self = self.contiguous()?;
        }
        let (start, len) = (self.layout.offset, self.elements());
        let (dtype_error, device_error) = (self.dtype_error("cpu", T::DTYPE), self.device_error("cpu", &Device::cpu()));
        match &mut self.storage {
            Storage::Cpu(storage) => {
                let all = T::slice_mut(Arc::make_mut(storage).buffer_mut()).ok_or(dtype_error)?;
                Ok(&mut all[start..start + len])
            }
            Storage::Gpu(_) => Err(device_error),
        }
    }

    /// Makes this tensor the only holder of contiguous storage at offset 0, copying if needed, so that a kernel may
    /// write to it in place.
    pub(crate) fn make_unique(&mut self) -> Result<()> {
        if !self.is_unique() {
            *self = self.copied()?;
        }
        Ok(())
    }

    /// Whether the elements lie one after another from the beginning of the storage on.
    pub(crate) fn is_whole(&self) -> bool {
        self.layout == Layout::contiguous(self.layout.shape)
    }

    /// Whether a kernel may write to this tensor in place.
    pub(crate) fn is_unique(&self) -> bool {
        let holders = match &self.storage {
            Storage::Cpu(storage) => Arc::strong_count(storage),
            Storage::Gpu(storage) => Arc::strong_count(storage),
        };
        holders == 1 && self.is_whole()
    }

    pub(crate) fn check_axis(&self, operation: &'static str, axis: usize) -> Result<()> {
        if axis < self.rank() {
            return Ok(());
        }
        Err(TensorError::Axis { operation, axis, shape: self.layout.shape })
    }

    pub(crate) fn expect_dtype(&self, operation: &'static str, dtype: DType) -> Result<()> {
        if self.dtype == dtype { Ok(()) } else { Err(self.dtype_error(operation, dtype)) }
    }

    pub(crate) fn expect_shape(&self, operation: &'static str, shape: &[usize]) -> Result<()> {
        if self.layout.shape[..] == *shape {
            return Ok(());
        }
        Err(TensorError::Shape { operation, expected: format!("{shape:?}"), found: self.layout.shape })
    }

    pub(crate) fn expect_same_device(&self, operation: &'static str, other: &Tensor) -> Result<()> {
        if self.device == other.device { Ok(()) } else { Err(self.device_error(operation, &other.device)) }
    }

    fn dtype_error(&self, operation: &'static str, expected: DType) -> TensorError {
        TensorError::DType { operation, expected: expected.to_string(), found: self.dtype }
    }

    fn device_error(&self, operation: &'static str, other: &Device) -> TensorError {
        TensorError::DeviceMismatch { operation, left: self.device.to_string(), right: other.to_string() }
    }
}

fn checked_count(shape: &[usize], count: usize) -> Result<Shape> {
    let shape = Shape::new(shape)?;
    if shape.elements() == count {
        return Ok(shape);
    }
    Err(TensorError::Shape { operation: "from_slice", expected: format!("a shape of {count} elements"), found: shape })
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {} on {})", self.dtype, self.layout.shape, self.device)
    }
}
