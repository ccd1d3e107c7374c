//! Element types. Which operations accept which type is each operation's own rule, not this module's.

use std::fmt;

use half::{bf16, f16};

/// The type of a tensor's elements.
///
/// Arithmetic is done in `F32`. `F16` and `Bf16` are storage types: matrix products, embedding lookup and
/// casts read them, nothing else does. `U32` and `I32` hold indices, labels and masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32: 8 exponent bits, 7 fraction bits.
    Bf16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// True for `F32`, `F16` and `Bf16`.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// True for the two 16-bit storage types.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16)
    }

    /// The name used in messages: `f32`, `f16`, `bf16`, `u32`, `i32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::U32 => "u32",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that can be a tensor's element. Implemented for `f32`, `f16`, `bf16`, `u32` and `i32` only.
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq + sealed::Sealed {
    /// The element type this Rust type stands for.
    const DTYPE: DType;
}

pub(crate) mod sealed {
    use super::*;
    use crate::cpu::CpuBuffer;

    /// Access to the typed vector inside a CPU buffer; sealed, since the set of element types is closed.
    pub trait Sealed: Sized {
        fn wrap(values: Vec<Self>) -> CpuBuffer;
        fn slice(buffer: &CpuBuffer) -> Option<&[Self]>;
        fn slice_mut(buffer: &mut CpuBuffer) -> Option<&mut [Self]>;
        fn unwrap(buffer: CpuBuffer) -> Option<Vec<Self>>;
    }

    macro_rules! element {
        ($($rust:ty => $variant:ident),*) => {$(
            impl Sealed for $rust {
                fn wrap(values: Vec<Self>) -> CpuBuffer {
                    CpuBuffer::$variant(values)
                }
                fn slice(buffer: &CpuBuffer) -> Option<&[Self]> {
                    match buffer {
                        CpuBuffer::$variant(values) => Some(values),
                        _ => None,
                    }
                }
                fn slice_mut(buffer: &mut CpuBuffer) -> Option<&mut [Self]> {
                    match buffer {
                        CpuBuffer::$variant(values) => Some(values),
                        _ => None,
                    }
                }
                fn unwrap(buffer: CpuBuffer) -> Option<Vec<Self>> {
                    match buffer {
                        CpuBuffer::$variant(values) => Some(values),
                        _ => None,
                    }
                }
            }
            impl Element for $rust {
                const DTYPE: DType = DType::$variant;
            }
        )*};
    }
    element!(f32 => F32, f16 => F16, bf16 => Bf16, u32 => U32, i32 => I32);
}
