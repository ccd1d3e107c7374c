//! A file of `torch.save`: a zip archive of one pickle and one entry per storage; or, before PyTorch 1.6, five pickles
//! followed by the storages. Layouts: `torch/serialization.py` (2.5), `_save`, `_legacy_load`.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use tensor::MappedFile;

use super::pickle::{Machine, Storage, View};
use super::tensor_file::{StoredTensor, TensorFile};
use super::zip;
use crate::error::{ModelError, Result};

/// The first pickle of the old layout: the number 0x1950a86a20f9469cfc6c.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

type Tensors = HashMap<String, StoredTensor>;

/// Maps a file and checks everything that it says about its tensors.
pub(crate) fn open(path: &Path) -> Result<TensorFile> {
    let failed = |message: String| ModelError::TorchFile { path: path.to_path_buf(), message };
    let map = MappedFile::open(path).map_err(|source| ModelError::io(path, source))?;
    let tensors = if map.starts_with(OLD_MAGIC) { old_layout(&map) } else { archive(&map) };
    let tensors = tensors.map_err(failed)?;
    Ok(TensorFile { path: path.to_path_buf(), tensors, metadata: HashMap::new(), map })
}

/// The tensors of a zip archive.
fn archive(bytes: &[u8]) -> Result<Tensors, String> {
    let entries = zip::entries(bytes)?;
    let mut roots = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|root| !root.contains('/'));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err("the archive must hold one data.pkl in one top directory".into());
    };
    if let Some(order) = entries.get(&format!("{root}/byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err("its numbers are big-endian; only little-endian files are read".into());
    }
    let (machine, value, _) = Machine::run(&bytes[entries[&format!("{root}/data.pkl")].clone()])?;
    let mut places = HashMap::new();
    for storage in &machine.storages {
        let entry = entries.get(&format!("{root}/data/{}", storage.key));
        let place = entry.ok_or_else(|| format!("storage `{}` is missing", storage.key))?;
        places.insert(storage.key.as_str(), place.clone());
    }
    resolve(&machine.named_tensors(value)?, &machine.storages, &places)
}

/// The tensors of the old layout: magic number, protocol, system, dictionary and keys as pickles; then, in the order of
/// the keys, each storage's number of elements and its bytes.
fn old_layout(bytes: &[u8]) -> Result<Tensors, String> {
    let mut at = OLD_MAGIC.len();
    for _ in ["protocol", "system"] {
        at += Machine::run(&bytes[at..])?.2;
    }
    let (machine, value, length) = Machine::run(&bytes[at..])?;
    at += length;
    let (keys, list, length) = Machine::run(&bytes[at..])?;
    at += length;
    let keys = keys.texts(list).ok_or("the list of storages is damaged")?;
    let known: HashMap<&str, &Storage> = machine.storages.iter().map(|s| (s.key.as_str(), s)).collect();
    let mut places: HashMap<&str, Range<usize>> = HashMap::new();
    for key in keys {
        let storage = known.get(key).ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let cut_short = || format!("storage `{key}` is cut short: the file is truncated or damaged");
        let count: [u8; 8] = bytes.get(at..at + 8).and_then(|count| count.try_into().ok()).ok_or_else(cut_short)?;
        if usize::try_from(u64::from_le_bytes(count)).ok() != Some(storage.elements) {
            return Err(format!("storage `{key}` has two different sizes"));
        }
        let start = at + 8;
        let end = storage.bytes().and_then(|length| start.checked_add(length));
        at = end.filter(|&end| end <= bytes.len()).ok_or_else(cut_short)?;
        if places.insert(key, start..at).is_some() {
            return Err(format!("storage `{key}` is there twice"));
        }
    }
    resolve(&machine.named_tensors(value)?, &machine.storages, &places)
}

impl Storage {
    fn bytes(&self) -> Option<usize> {
        self.elements.checked_mul(self.dtype.bitsize() / 8)
    }
}

/// Turns views of storages into places in the file.
fn resolve(
    named: &[(&str, &View)],
    storages: &[Storage],
    places: &HashMap<&str, Range<usize>>,
) -> Result<Tensors, String> {
    let mut tensors = HashMap::with_capacity(named.len());
    for &(name, view) in named {
        let storage = &storages[view.storage];
        let place = places.get(storage.key.as_str()).ok_or_else(|| format!("storage `{}` is missing", storage.key))?;
        if storage.bytes() != Some(place.len()) {
            return Err(format!(
                "storage `{}` of `{name}` has {} bytes, not {} elements of {:?}",
                storage.key,
                place.len(),
                storage.elements,
                storage.dtype
            ));
        }
        let stored = locate(view, storage, place.start)
            .ok_or_else(|| format!("`{name}` of shape {:?} does not fit its storage", view.shape))?;
        if tensors.insert(name.to_string(), stored).is_some() {
            return Err(format!("tensor `{name}` is there twice"));
        }
    }
    Ok(tensors)
}

/// A view's place, if it lies within its storage and has no more elements than that: a repeated view could ask for
/// any amount of memory.
fn locate(view: &View, storage: &Storage, start: usize) -> Option<StoredTensor> {
    let size = storage.dtype.bitsize() / 8;
    let (shape, dtype) = (view.shape.clone(), storage.dtype);
    let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent))?;
    if elements == 0 {
        return Some(StoredTensor { shape, dtype, bytes: start..start, strides: None });
    }
    let mut last = view.offset;
    for (&extent, &stride) in shape.iter().zip(&view.strides) {
        last = last.checked_add((extent - 1).checked_mul(stride)?)?;
    }
    if last >= storage.elements || elements > storage.elements {
        return None;
    }
    // Proof that nothing overflows: `last` is within the storage, whose bytes lie in the file.
    let bytes = start + view.offset * size..start + (last + 1) * size;
    let mut row_major = 1;
    let contiguous = shape.iter().zip(&view.strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == row_major;
        row_major *= extent;
        fits
    });
    // An axis of one element may have any stride, however large: it is never followed.
    let follow = |(&extent, &stride): (&usize, &usize)| if extent == 1 { 0 } else { stride };
    let strides = (!contiguous).then(|| shape.iter().zip(&view.strides).map(follow).collect());
    Some(StoredTensor { shape, dtype, bytes, strides })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_tiny").join(name)
    }

    fn open_bytes(bytes: &[u8]) -> Result<TensorFile> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        open(file.path())
    }

    /// Reads every tensor, so that a wrong range or stride would show.
    fn read_all(file: &TensorFile) -> usize {
        file.tensors.values().map(|tensor| file.bytes(tensor).len()).sum()
    }

    #[test]
    fn both_layouts_hold_the_tensors_of_the_safetensors_file() {
        let expected = super::super::safetensors_file::open(&fixture("model.safetensors")).expect("safetensors");
        for name in ["pytorch_model.bin", "old_layout.bin", "plain_dictionary.bin"] {
            let file = open(&fixture(name)).expect(name);
            assert_eq!(file.tensors.len(), expected.tensors.len(), "{name}");
            for (tensor, found) in &file.tensors {
                let wanted = &expected.tensors[tensor];
                assert_eq!((&found.shape, found.dtype), (&wanted.shape, wanted.dtype), "{name}: {tensor}");
                assert_eq!(file.bytes(found), expected.bytes(wanted), "{name}: {tensor}");
            }
            assert!(file.tensors["transposed"].strides.is_some() && file.tensors["tied"].strides.is_none());
            assert_eq!(file.tensors["tied"].bytes, file.tensors["embedding.weight"].bytes, "{name}");
        }
    }

    #[test]
    fn other_contents_are_named() {
        let refusal = |name: &str| open(&fixture(name)).err().expect("must be refused").to_string();
        assert!(refusal("refused_code.bin").contains("refers to `posix.system`, which is not part of a tensor"));
        assert!(refusal("refused_value.bin").contains("`step` is not a tensor"));
        assert!(refusal("refused_repeat.bin").contains("`repeated` of shape [1000000, 4] does not fit its storage"));
        let whole = std::fs::read(fixture("pytorch_model.bin")).expect("the fixture");
        let short = open_bytes(&whole[..whole.len() - 1]).err().expect("must be refused").to_string();
        assert!(short.contains("truncated or damaged; download it again"), "{short}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn changed_files_are_read_or_refused(
            old: bool,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            keep in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut bytes = std::fs::read(fixture(if old { "old_layout.bin" } else { "pytorch_model.bin" }))
                .expect("the fixture");
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(keep) = keep {
                bytes.truncate(keep.index(bytes.len()));
            }
            if let Ok(file) = open_bytes(&bytes) {
                prop_assert!(read_all(&file) <= bytes.len() * file.tensors.len());
            }
        }
    }
}
