//! A temporary directory for tests, removed when it is dropped.

use std::path::{Path, PathBuf};

use crate::random::{self, OsEntropy};

#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let name = data_encoding::HEXLOWER.encode(&random::bytes::<8>(&OsEntropy).unwrap());
        let path = std::env::temp_dir().join(format!("keyclasp-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
