//! The reserve: disk space held back in a file beside the store's, so that a revocation can still
//! be written when the disk is full. It is given up for one, and taken again when there is room.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

const FILE_NAME: &str = "keyclasp.reserve";
/// Room for some thousands of revocations.
const BYTES: u64 = 8 << 20;

/// The reserve of the store in a directory.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the store in `dir`, not held yet.
    pub(super) fn of(dir: &Path) -> Self {
        Self { path: dir.join(FILE_NAME) }
    }

    /// Takes the space, unless it is held. Where there is none, or where the file system cannot
    /// hold space back, the store works without.
    pub(super) fn hold(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() < BYTES {
            fallocate(&file, FallocateFlags::empty(), 0, BYTES)?;
        }
        Ok(())
    }

    /// Gives the space up; answers whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let file = OpenOptions::new().write(true).open(&self.path);
        file.is_ok_and(|file| file.metadata().is_ok_and(|it| it.len() > 0) && file.set_len(0).is_ok())
    }
}
