//! One safetensors file, memory-mapped: eight bytes of header length, a JSON header, the tensors' bytes.
//! All offsets are checked here, once, so that later reads cannot leave the map.

use std::path::Path;

use safetensors::tensor::Metadata;
use tensor::MappedFile;

use super::tensor_file::{StoredTensor, TensorFile};
use crate::error::{ModelError, Result};

/// Headers of real checkpoints are below a few megabytes; a length beyond this is damage or malice.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Maps a file and checks its header and length.
pub(crate) fn open(path: &Path) -> Result<TensorFile> {
    let map = MappedFile::open(path).map_err(|source| ModelError::io(path, source))?;
    let (start, header) = read_header(path, &map)?;
    let expected = start as u64 + header.data_len() as u64;
    if expected != map.len() as u64 {
        return Err(ModelError::Length { path: path.to_path_buf(), expected, found: map.len() as u64 });
    }
    // The offsets are contiguous from zero to `data_len` (checked by the parser), hence inside the map.
    let tensors = header
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, StoredTensor { shape: info.shape.clone(), dtype: info.dtype, bytes, strides: None })
        })
        .collect();
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(TensorFile { path: path.to_path_buf(), tensors, metadata, map })
}

/// The parsed header and the position of the first byte after it.
fn read_header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata)> {
    let invalid = |message: String| ModelError::Header { path: path.to_path_buf(), message };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(invalid(format!("{} bytes are too few for the header's length", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(invalid(format!("a header of {length} bytes is beyond reason")));
    }
    // Proof for the cast: at most MAX_HEADER_BYTES.
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        return Err(ModelError::Length {
            path: path.to_path_buf(),
            expected: 8 + length as u64,
            found: bytes.len() as u64,
        });
    };
    let header = serde_json::from_slice(header).map_err(|error| invalid(error.to_string()))?;
    Ok((8 + length, header))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use safetensors::Dtype;

    use super::*;

    fn open(bytes: &[u8]) -> Result<TensorFile> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        super::open(file.path())
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend((0..data).map(|i| i as u8));
        bytes
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]}}"#;

    #[test]
    fn tensors_lie_where_the_header_says() {
        let file = open(&file(GOOD, 12)).expect("a valid file");
        assert_eq!(*file.bytes(&file.tensors["a"]), [0, 1, 2, 3]);
        assert_eq!(*file.bytes(&file.tensors["b"]), [4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!((file.tensors["a"].shape.as_slice(), file.tensors["a"].dtype), (&[2, 1][..], Dtype::F16));
        assert_eq!(file.metadata["format"], "pt");
    }

    #[test]
    fn damaged_files_are_refused_with_the_reason() {
        let message = |bytes: &[u8]| open(bytes).err().expect("must be refused").to_string();
        assert!(message(&[]).contains("0 bytes are too few for the header's length"));
        assert!(message(&u64::MAX.to_le_bytes()).contains("beyond reason"));
        let whole = file(GOOD, 12);
        assert!(message(&whole[..40]).contains("it is truncated or damaged"));
        let short = message(&whole[..whole.len() - 1]);
        let (expected, found) = (whole.len(), whole.len() - 1);
        assert!(short.contains(&format!("describes {expected} bytes but the file has {found}")), "{short}");
        assert!(message(&file(GOOD, 13)).contains("truncated or damaged"));
        for bad in [
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":"#,
        ] {
            assert!(message(&file(bad, 8)).contains("not a valid safetensors file"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(position in 0usize..200, value: u8, keep in 0usize..240) {
            let mut bytes = file(GOOD, 12);
            let index = position % bytes.len();
            bytes[index] = value;
            bytes.truncate(keep);
            let _ = open(&bytes);
        }
    }
}
