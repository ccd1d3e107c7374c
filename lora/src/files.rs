//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{LoraError, Result};

/// Writes a file under a temporary name beside its target, brings it to the disk, and renames it into place. A reader,
/// or the next run after a crash, sees the old file or the new one, never a part.
///
/// # Errors
/// [`LoraError::File`]; the target is then as it was, and the temporary file is gone if the system lets it go.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    write_whole_with(path, |file| file.write_all(contents).map_err(|error| LoraError::file(path, error)))
}

/// As [`write_whole`], without waiting for the disk: after a power cut the file may hold anything. For caches that know
/// damage when they read it, and can be made again.
///
/// # Errors
/// As [`write_whole`].
pub fn write_replaceable(path: &Path, contents: &[u8]) -> Result<()> {
    replace(path, false, |file| file.write_all(contents).map_err(|error| LoraError::file(path, error)))
}

/// As [`write_whole`], for contents that are never in memory whole: `write` puts them into the file.
///
/// # Errors
/// [`LoraError::File`], or what `write` returns.
pub fn write_whole_with<E: From<LoraError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    replace(path, true, write)
}

fn replace<E: From<LoraError>>(
    path: &Path,
    durable: bool,
    write: impl FnOnce(&mut File) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let name = path.file_name().ok_or_else(|| LoraError::format(path, "is not the name of a file"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(|error| LoraError::file(directory, error))?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary_name);
    let failed = |error: std::io::Error| E::from(LoraError::file(path, error));
    let write = || {
        let mut file = File::create(&temporary).map_err(failed)?;
        write(&mut file)?;
        if durable {
            file.sync_all().map_err(failed)?;
        }
        fs::rename(&temporary, path).map_err(failed)?;
        if durable { sync_directory(directory).map_err(failed) } else { Ok(()) }
    };
    write().inspect_err(|_| {
        // The write's own error is the one worth reporting; a temporary file that stays behind does no harm.
        let _ = fs::remove_file(&temporary);
    })
}

/// Reads a file that is expected to be small.
///
/// # Errors
/// [`LoraError::File`]; [`LoraError::Format`] for what is no plain file, such as a device that never ends, or holds more than
/// `most` bytes.
pub fn read_small(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |error| LoraError::file(path, error);
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(LoraError::format(path, "is not a plain file"));
    }
    if metadata.len() > most {
        return Err(LoraError::format(path, format!("{} bytes are beyond reason for this file", metadata.len())));
    }
    // Should the file grow meanwhile, no more of it is read.
    let mut contents = Vec::new();
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut contents)).map_err(failed)?;
    Ok(contents)
}

/// Makes a rename survive a power cut. Only Unix lets a directory be opened for this.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_file_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inner").join("file.json");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn small_files_are_plain_and_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_small(&path, 5).unwrap(), b"12345");
        let message = read_small(&path, 4).unwrap_err().to_string();
        assert!(message.ends_with("file.json: 5 bytes are beyond reason for this file"), "{message}");
        assert!(read_small(directory.path(), 9).unwrap_err().to_string().ends_with("is not a plain file"));
        assert!(read_small(&path.join("absent"), 9).is_err());
        #[cfg(unix)]
        assert!(read_small(Path::new("/dev/zero"), 9).is_err(), "it would never end");
    }

    #[test]
    fn a_refusal_keeps_the_old_file_and_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("occupied");
        fs::create_dir(&path).unwrap();
        let error = write_whole(&path, b"new").unwrap_err().to_string();
        assert!(error.contains("occupied"), "{error}");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
