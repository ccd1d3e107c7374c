//! A short name for a checkpoint's contents, to tell one base model from another.

use super::Checkpoint;

/// Stretches of a tensor that are read; smaller tensors are read whole.
const STRETCHES: usize = 64;

/// Bytes of a stretch.
const STRETCH: usize = 512;

impl Checkpoint {
    /// A number of 128 bits, in hexadecimal, from names, types, shapes and a sample of every tensor's bytes (32 KiB evenly
    /// spread): FNV-1a. The same contents in other files give the same name. It tells versions of a model apart, which
    /// differ everywhere; it is no protection against someone who wants two files to look alike.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        for (name, tensor) in self.tensors() {
            hash.add(name.as_bytes());
            hash.add(format!("{:?}{:?}", tensor.dtype, tensor.shape).as_bytes());
            // Every name of `tensors` has bytes.
            let Some(bytes) = self.bytes(name) else { continue };
            if bytes.len() <= STRETCHES * STRETCH {
                hash.add(&bytes);
                continue;
            }
            let last = bytes.len() - STRETCH;
            for stretch in 0..STRETCHES {
                // The product of a length in memory and a small count fits 128 bits.
                let start = (last as u128 * stretch as u128 / (STRETCHES - 1) as u128) as usize;
                hash.add(&bytes[start..start + STRETCH]);
            }
        }
        format!("{:032x}", hash.0)
    }
}

/// FNV-1a of 128 bits.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds bytes and their number, so that neighbouring texts cannot flow into each other.
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
