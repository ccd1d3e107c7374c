//! One mapped file of named tensors, whatever its format: where each tensor's bytes lie and how they are ordered.
//! The formats' readers ([`super::safetensors_file`], [`super::torch_file`]) have checked that every range and every
//! stride stays within the map.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use safetensors::Dtype;
use tensor::MappedFile;

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// The extents of its axes.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: Dtype,
    /// Where its bytes lie in the file; for a strided tensor from its first to its last element.
    pub(crate) bytes: Range<usize>,
    /// Distances between neighbours along each axis, in elements, where they are not those of a row-major tensor.
    pub(crate) strides: Option<Vec<usize>>,
}

impl StoredTensor {
    /// Length of its elements in bytes.
    pub fn stored_bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8) as u64
    }
}

/// A mapped file with a checked table of tensors.
pub(crate) struct TensorFile {
    pub path: PathBuf,
    pub tensors: HashMap<String, StoredTensor>,
    /// The free-form texts of the header.
    pub metadata: HashMap<String, String>,
    pub map: MappedFile,
}

impl TensorFile {
    /// The row-major bytes of a tensor of this file: straight from the map, or gathered if it is strided.
    pub fn bytes(&self, tensor: &StoredTensor) -> Cow<'_, [u8]> {
        let stored = &self.map[tensor.bytes.clone()];
        match &tensor.strides {
            None => Cow::Borrowed(stored),
            Some(strides) => Cow::Owned(gather(stored, &tensor.shape, strides, tensor.dtype.bitsize() / 8)),
        }
    }
}

/// Copies the elements of a strided tensor into row-major order.
fn gather(stored: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let elements: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(elements * size);
    let mut index = vec![0; shape.len()];
    let mut position = 0;
    for _ in 0..elements {
        bytes.extend_from_slice(&stored[position * size..][..size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            position += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            position -= shape[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_elements_come_in_row_major_order() {
        // A [2, 3] matrix stored by columns, two bytes an element.
        let stored = [0, 100, 3, 103, 1, 101, 4, 104, 2, 102, 5, 105];
        assert_eq!(gather(&stored, &[2, 3], &[1, 2], 2), [0, 100, 1, 101, 2, 102, 3, 103, 4, 104, 5, 105]);
        assert_eq!(gather(&stored, &[2, 1, 2], &[4, 9, 1], 1), [0, 100, 1, 101]);
        assert_eq!(gather(&stored, &[], &[], 2), [0, 100]);
        assert!(gather(&[], &[0, 2], &[1, 1], 2).is_empty());
    }
}
