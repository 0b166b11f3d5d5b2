//! Small files that the connection needs: certificates, keys, the password.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What is wrong with a file that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = \"{}\" {message}", path.display())]
pub struct FileError {
    key: &'static str,
    path: PathBuf,
    message: String,
}

impl FileError {
    pub(super) fn new(key: &'static str, path: &Path, message: impl Into<String>) -> Self {
        Self {
            key,
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// Reads a file of at most `bytes_max`.
///
/// **Errors**: it cannot be read, or is longer; the error names `key`.
pub(super) fn read(key: &'static str, path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |e: std::io::Error| FileError::new(key, path, format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::new(
            key,
            path,
            format!("has more than {bytes_max} bytes; is it the right file?"),
        ));
    }
    Ok(bytes)
}
