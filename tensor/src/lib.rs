//! Arrays on two backends with one meaning: WGSL kernels through wgpu (Vulkan, Metal, DX12), and native Rust on the
//! CPU. The CPU is the default where no GPU is found, and the oracle that every kernel is tested against.
//!
//! What lives here: bytes, shapes, devices and operations. What does not: gradients, models, files.
//!
//! ```
//! use tensor::{Device, Tensor};
//!
//! let device = Device::auto();
//! let x = Tensor::from_slice(&device, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! let y = x.t()?.exp()?.mul(&Tensor::scalar(&device, 0.5f32)?)?;
//! assert_eq!(y.shape()[..], [3, 2]);
//! assert!((y.to_vec::<f32>()?[1] - 0.5 * 4.0f32.exp()).abs() < 1e-4);
//! # Ok::<(), tensor::TensorError>(())
//! ```

mod counters;
mod cpu;
mod device;
mod dtype;
mod error;
mod gpu;
mod ops;
mod shape;
mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trusted;
mod tuning;

pub use counters::Counters;
pub use device::{AdapterSummary, Device, DeviceRequest, GpuOptions, KernelTime, list_adapters};
pub use dtype::{DType, Element};
pub use error::{Result, TensorError};
pub use half::{bf16, f16};
pub use ops::*;
pub use shape::{MAX_RANK, Shape};
pub use tensor::Tensor;
pub use trusted::MappedFile;
pub use tuning::Tuning;
