//! Room on the disk that is kept for the day when there is none left.
//!
//! To delete what the cloud has acknowledged, and to begin a new life after a restart, the buffer
//! must write. On a full disk it could do neither, and would never drain. So a file of
//! [`RESERVE_BYTES`] lies beside the buffer; it is removed when the disk is full and made again when
//! there is room.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Size of the reserve: enough for many commits that delete.
pub(crate) const RESERVE_BYTES: u64 = 1 << 20;
const RESERVE: &str = "reserve";

/// Makes the reserve in `dir` if it is not there. With `spare` it is only made where as much again
/// stays free.
///
/// **Errors**: there is not enough room, or the disk fails.
pub(crate) fn make(dir: &Path, spare: bool) -> io::Result<()> {
    let path = dir.join(RESERVE);
    if fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES) {
        return Ok(());
    }
    let made = File::create(&path).and_then(|file| fill(file, RESERVE_BYTES << u32::from(spare)));
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

fn fill(mut file: File, bytes: u64) -> io::Result<()> {
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        // Some file systems cannot promise room; zeros take it.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = [0; 64 << 10];
            for _ in 0..bytes / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.set_len(RESERVE_BYTES)?;
    file.sync_all()
}

/// Gives the reserve's room to the buffer. Returns whether there was any.
pub(crate) fn release(dir: &Path) -> bool {
    fs::remove_file(dir.join(RESERVE)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_once_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), true).unwrap();
        make(dir.path(), false).unwrap();
        let path = dir.path().join(RESERVE);
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), RESERVE_BYTES);
        assert!(metadata.blocks() * 512 >= RESERVE_BYTES, "it is no hole");
        assert!(release(dir.path()) && !release(dir.path()) && !path.exists());
    }
}
