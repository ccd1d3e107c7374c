//! What the fuzz targets share: a directory with the bytes as a file, and a look at everything a checkpoint holds.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use models::Checkpoint;
use tempfile::TempDir;

/// The directory of this process, in memory where the system offers that. It is made once: the readers only ever see one
/// file of a name at a time.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let make = || {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        made.expect("a temporary directory")
    };
    DIRECTORY.get_or_init(make).path()
}

/// Writes a file into the directory.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// Reads every tensor of the checkpoint in the directory, if there is one, and checks that the bytes given are those that
/// the description announces.
pub fn read_checkpoint() {
    let Ok(checkpoint) = Checkpoint::open(directory()) else { return };
    for (name, tensor) in checkpoint.tensors() {
        let bytes = checkpoint.bytes(name).expect("a tensor that is listed");
        assert_eq!(bytes.len() as u64, tensor.stored_bytes(), "{name}");
    }
    assert_eq!(checkpoint.fingerprint().len(), 32);
}
