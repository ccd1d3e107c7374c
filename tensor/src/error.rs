//! The crate's error type. Every message names the operation and what was expected and found.

use crate::dtype::DType;
use crate::shape::Shape;

/// Shorthand for results of this crate.
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// What can go wrong in a tensor operation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Two shapes that must broadcast against each other do not.
    #[error("{operation}: shapes {left} and {right} do not broadcast; each axis must be equal or 1")]
    Broadcast {
        /// The operation that was asked for.
        operation: &'static str,
        /// Shape of the left operand.
        left: Shape,
        /// Shape of the right operand.
        right: Shape,
    },
    /// A shape is not what the operation needs.
    #[error("{operation}: expected {expected}, found shape {found}")]
    Shape {
        /// The operation that was asked for.
        operation: &'static str,
        /// What would have been right, in words or as a shape.
        expected: String,
        /// The shape that was given.
        found: Shape,
    },
    /// An element type is not what the operation needs.
    #[error("{operation}: expected elements of type {expected}, found {found}")]
    DType {
        /// The operation that was asked for.
        operation: &'static str,
        /// The accepted types.
        expected: String,
        /// The type that was given.
        found: DType,
    },
    /// An axis is not one of the tensor's.
    #[error("{operation}: axis {axis} is out of range for shape {shape}")]
    Axis {
        /// The operation that was asked for.
        operation: &'static str,
        /// The axis that was given.
        axis: usize,
        /// The tensor's shape.
        shape: Shape,
    },
    /// Two tensors of one operation live on different devices.
    #[error("{operation}: operands are on different devices ({left} and {right}); move one with `to_device`")]
    DeviceMismatch {
        /// The operation that was asked for.
        operation: &'static str,
        /// Device of the left operand.
        left: String,
        /// Device of the right operand.
        right: String,
    },
    /// An argument that is neither shape nor type is wrong.
    #[error("{operation}: {message}")]
    InvalidArgument {
        /// The operation that was asked for.
        operation: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// No device answers the request.
    #[error("no device matches `{request}`; available: {available}")]
    NoDevice {
        /// What was asked for.
        request: String,
        /// The devices there are, by the names that select them.
        available: String,
    },
    /// The device has no room for an allocation.
    #[error("{operation}: the device has no room for {bytes} bytes ({in_use} bytes in use): {reason}")]
    OutOfMemory {
        /// The operation that needed the memory.
        operation: &'static str,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes in use by live tensors at that moment.
        in_use: u64,
        /// The device's own words or the limit that was hit.
        reason: String,
    },
    /// The device went away; every tensor on it is lost.
    #[error("the device was lost ({reason}); restart, and resume from the last checkpoint")]
    DeviceLost {
        /// The driver's own words.
        reason: String,
    },
    /// The GPU or its driver refused a command.
    #[error("{operation}: the GPU reported an error: {message}")]
    Gpu {
        /// The operation, or the last one recorded when the error arrived.
        operation: String,
        /// The driver's or validator's words.
        message: String,
    },
}
