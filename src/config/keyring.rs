//! `[keyring]`, and the file of peppers that it names: read into a [`Keyring`], and rewritten in
//! one step by the `keyring` commands. No message shows a pepper.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, Uid, fchmod, fchown, flock};
use zeroize::Zeroizing;

use super::peppers::{self, PepperEntry, Peppers};
use super::problem::Problems;
use super::setting::section;
use super::source::{self, Place};
use crate::hash::Keyring;
use crate::key::PepperId;
use crate::random::EntropyError;

section! {
    /// The peppers: secrets of the service, without which nothing in the store yields or verifies a key. Every
    /// replica on one store needs the same file. `keyclasp keyring` writes it.
    ["keyring"] pub(super) struct KeyringSection {
        /// The file of peppers.
        file: PathBuf = "keyring.toml",
    }
    check |_, _| {}
}

/// The file of peppers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringFile {
    path: PathBuf,
}

/// A keyring file, ready for use.
#[derive(Debug, Clone)]
pub struct LoadedKeyring {
    /// The peppers with their derived keys.
    pub keyring: Keyring,
    /// Peppers that were taken out on purpose: a store that knows one of them may forget it.
    pub retired: Vec<PepperId>,
}

/// Why a keyring file was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringFileError {
    /// There is none.
    #[error("there is no keyring at {0}: restore it from a backup, or make a new one with `keyclasp init`")]
    Missing(PathBuf),
    /// It is not understood.
    #[error("{0}")]
    Problems(Problems),
    /// It could not be written.
    #[error("the keyring {} could not be written: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another command holds it.
    #[error("another `keyclasp keyring` command is changing {0}: try again")]
    Busy(PathBuf),
    /// The change makes no sense.
    #[error("{0}")]
    Refused(String),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl KeyringFile {
    /// The file at `path`.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keyring in it, with its derived keys.
    ///
    /// # Errors
    /// When the file is missing or not understood.
    pub fn load(&self) -> Result<LoadedKeyring, KeyringFileError> {
        let peppers = self.read()?;
        let derived = peppers.entries().iter().map(PepperEntry::derive).collect();
        let keyring =
            Keyring::new(derived, peppers.current()).map_err(|error| KeyringFileError::Refused(error.to_string()))?;
        Ok(LoadedKeyring { keyring, retired: peppers.retired().to_vec() })
    }

    /// What stands in it.
    ///
    /// # Errors
    /// When the file is missing or not understood.
    pub fn read(&self) -> Result<Peppers, KeyringFileError> {
        if matches!(self.path.try_exists(), Ok(false)) {
            return Err(KeyringFileError::Missing(self.path.clone()));
        }
        let mut problems = Problems::default();
        let text = source::read(&self.path, "keyring", Place::File(self.path.clone().into(), 0), &mut problems);
        let peppers = text.map(Zeroizing::new).and_then(|text| peppers::parse(&text, &self.path, &mut problems));
        match peppers {
            Some(peppers) if problems.is_empty() => Ok(peppers),
            _ => Err(KeyringFileError::Problems(problems)),
        }
    }

    /// Changes the file in one step: a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// When the file cannot be read or written, another command is at it, or `change` refuses.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Peppers) -> Result<(), KeyringFileError>,
    ) -> Result<Peppers, KeyringFileError> {
        // Through a symbolic link, so that the link stays one.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let failed = |error: io::Error| KeyringFileError::Write { path: path.clone(), error };
        let directory = File::open(source::directory(&path)).map_err(failed)?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| KeyringFileError::Busy(self.path.clone()))?;
        let mut peppers = self.read()?;
        change(&mut peppers)?;
        replace(&path, &peppers.render(), &directory).map_err(failed)?;
        Ok(peppers)
    }
}

/// Writes `text` over the file at `path`, whose owner and mode stay.
fn replace(path: &Path, text: &str, directory: &File) -> io::Result<()> {
    let old = path.metadata()?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new_path = path.with_file_name(name);
    // What a crash left behind; the lock says that nobody is writing it.
    let _ = std::fs::remove_file(&new_path);
    let written = create(&new_path, text).and_then(|file| {
        if (old.uid(), old.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
            fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
        }
        fchmod(&file, Mode::from_raw_mode(old.mode() & 0o777))?;
        file.sync_all()?;
        std::fs::rename(&new_path, path)?;
        directory.sync_all()
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&new_path);
    }
    written
}

/// Makes a file that only its owner may read. Refuses to overwrite.
pub(super) fn create(path: &Path, text: &str) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use data_encoding::BASE64;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config::scratch::Scratch;
    use crate::random::SeededEntropy;

    fn id(text: &str) -> PepperId {
        PepperId::parse(text).unwrap()
    }

    fn file(scratch: &Scratch) -> KeyringFile {
        let file = KeyringFile::new(scratch.path().join("keyring.toml"));
        let now = Timestamp::from_millis(1_000);
        let peppers = Peppers::generate(id("a"), now, &SeededEntropy::new(1)).unwrap();
        create(file.path(), &peppers.render()).unwrap();
        file
    }

    #[test]
    fn a_keyring_is_added_to_switched_and_retired() {
        let scratch = Scratch::new();
        let file = file(&scratch);
        let entropy = SeededEntropy::new(2);
        let before = std::fs::read_to_string(file.path()).unwrap();
        file.change(|peppers| peppers.add(id("b"), Timestamp::from_millis(2_000), &entropy)).unwrap();
        let added = std::fs::read_to_string(file.path()).unwrap();
        assert!(added.starts_with(&before), "adding changed what was there");
        assert_eq!(
            file.load().unwrap().keyring.peppers().map(|pepper| pepper.id().to_string()).collect::<Vec<_>>(),
            ["a", "b"]
        );

        assert!(file.change(|peppers| peppers.retire(&id("a"))).unwrap_err().to_string().contains("current"));
        assert!(file.change(|peppers| peppers.switch(&id("c"))).unwrap_err().to_string().contains("`a`, `b`"));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), added, "a refused change wrote something");

        file.change(|peppers| peppers.switch(&id("b"))).unwrap();
        let peppers = file.change(|peppers| peppers.retire(&id("a"))).unwrap();
        assert_eq!((peppers.current(), peppers.entries().len()), (&id("b"), 1));
        let peppers = file.read().unwrap();
        let [b] = peppers.entries() else { panic!("not one pepper") };
        assert_eq!((&b.id, b.created), (&id("b"), Some(Timestamp::from_millis(2_000))));
        assert_eq!(file.load().unwrap().retired, [id("a")]);
        assert!(file.change(|peppers| peppers.add(id("a"), Timestamp::default(), &entropy)).is_err());
    }

    #[test]
    fn a_change_keeps_the_mode_the_link_and_leaves_no_other_file() {
        let scratch = Scratch::new();
        let real = file(&scratch);
        assert_eq!(real.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let link = KeyringFile::new(scratch.path().join("link.toml"));
        std::os::unix::fs::symlink(real.path(), link.path()).unwrap();
        std::fs::set_permissions(real.path(), PermissionsExt::from_mode(0o640)).unwrap();
        // What a crash in the middle of an earlier change left behind.
        std::fs::write(scratch.path().join("keyring.toml.new"), "half").unwrap();
        link.change(|peppers| peppers.add(id("b"), Timestamp::default(), &SeededEntropy::new(3))).unwrap();
        assert!(link.path().symlink_metadata().unwrap().is_symlink());
        assert_eq!(real.path().metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(real.read().unwrap().entries().len(), 2);
        assert!(!scratch.path().join("keyring.toml.new").exists());
    }

    #[test]
    fn two_commands_do_not_change_it_at_once() {
        let scratch = Scratch::new();
        let file = file(&scratch);
        let inner = file.clone();
        file.change(|_| {
            let second = inner.change(|_| Ok(()));
            assert!(matches!(second, Err(KeyringFileError::Busy(_))), "{second:?}");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_without_a_pepper() {
        let scratch = Scratch::new();
        let path = scratch.path().join("keyring.toml");
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA";
        std::fs::write(
            &path,
            format!("current = \"A B\"\nother = 1\n[[peppers]]\nid = \"a\"\npepper = \"{secret}\"\n[[peppers]]\nid = \"a\"\npepper = \"{}\"\nsalt = \"{secret}\"\n", BASE64.encode(&[7; 32])),
        )
        .unwrap();
        let said = KeyringFile::new(path.clone()).read().unwrap_err().to_string();
        let lines: Vec<_> = said.lines().map(|line| line.strip_prefix(&path.display().to_string()).unwrap()).collect();
        assert_eq!(
            lines,
            [
                ":1: current is not the id of a pepper: must be 1 to 16 characters of a-z, 0-9 and -",
                ":2: other is not a setting: remove it, or use one of current, retired, peppers",
                ":5: peppers.pepper is not 32 bytes in base64: write it as the output of `openssl rand -base64 32`",
                ":9: peppers.salt is not a setting: remove it, or use one of id, pepper, created",
            ]
        );
        std::fs::write(&path, format!("current = \"a\"\n[[peppers]]\nid = \"a\"\npepper = \"{secret}\n")).unwrap();
        let said = KeyringFile::new(path.clone()).read().unwrap_err().to_string();
        assert!(said.contains(":4 is not TOML here") && !said.contains(secret), "{said}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(KeyringFile::new(path).load(), Err(KeyringFileError::Missing(_))));
    }

    #[test]
    fn a_keyring_without_its_current_pepper_or_with_one_twice_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.path().join("keyring.toml");
        let pepper = |id: &str| format!("[[peppers]]\nid = \"{id}\"\npepper = \"{}\"\n", BASE64.encode(&[7; 32]));
        std::fs::write(&path, format!("current = \"b\"\n{}", pepper("a"))).unwrap();
        assert!(
            KeyringFile::new(path.clone())
                .load()
                .unwrap_err()
                .to_string()
                .contains("not the id of a pepper in this file")
        );
        std::fs::write(&path, format!("current = \"a\"\n{}{}", pepper("a"), pepper("a"))).unwrap();
        assert!(KeyringFile::new(path).load().unwrap_err().to_string().contains("another pepper too"));
    }
}
