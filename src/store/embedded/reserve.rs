//! The reserve: disk space held back in a file beside the store's, so that a revocation can still
//! be written when the disk is full. It is given up for one, and taken again when there is room; until
//! then nothing is added.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
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
    /// Whether it was given up, or could not be taken for want of room. What adds to the store must
    /// wait then, or it would use up what is kept for what takes away.
    spent: Cell<bool>,
}

impl Reserve {
    /// The reserve of the store in `dir`, not held yet.
    pub(super) fn of(dir: &Path) -> Self {
        Self { path: dir.join(FILE_NAME), spent: Cell::new(false) }
    }

    /// Takes the space, unless it is held; answers whether there was room. Where the file system
    /// cannot hold space back, the store does without.
    pub(super) fn hold(&self) -> bool {
        let full = |error: &io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        self.spent.set(self.allocate().is_err_and(|error| full(&error)));
        !self.spent.get()
    }

    /// Whether there is none because there is no room for it.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// Gives the space up; answers whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let file = OpenOptions::new().write(true).open(&self.path);
        let given = file.is_ok_and(|file| file.metadata().is_ok_and(|it| it.len() > 0) && file.set_len(0).is_ok());
        self.spent.set(self.spent.get() || given);
        given
    }

    fn allocate(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() < BYTES {
            let allocated = fallocate(&file, FallocateFlags::empty(), 0, BYTES);
            if allocated.is_err() {
                // What there is of it would not be enough, and pass for a whole one.
                file.set_len(0)?;
            }
            allocated?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_holds_real_space_until_it_is_given_up() {
        let dir = std::env::temp_dir().join(format!("keyclasp-reserve-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let reserve = Reserve::of(&dir);
        assert!(!reserve.give_up(), "there is nothing yet");
        assert!(reserve.hold() && !reserve.is_spent());
        let blocks = || std::fs::metadata(&reserve.path).unwrap().blocks() * 512;
        assert!(blocks() >= BYTES, "{} bytes are held", blocks());
        assert!(reserve.give_up() && reserve.is_spent());
        assert_eq!(blocks(), 0);
        assert!(reserve.hold() && !reserve.is_spent());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
