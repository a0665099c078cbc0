//! What stands in a keyring file. No message shows a pepper.

use std::fmt::Write as _;
use std::path::Path;

use data_encoding::BASE64;
use zeroize::{Zeroize, Zeroizing};

use super::keyring::KeyringFileError;
use super::problem::{Problem, Problems};
use super::setting::{Fault, Setting, read, section};
use super::source::{self, Raw};
use super::types::{parsed, text};
use crate::clock::Timestamp;
use crate::hash::{PEPPER_LEN, Pepper};
use crate::key::{PepperId, SecretBytes};
use crate::random::{self, Entropy, EntropyError};

section! {
    /// A keyring file.
    [""] struct Head {
        /// Which pepper new keys are made under.
        current: PepperId,
        /// Peppers that were taken out on purpose: a store that knows one of them forgets it.
        retired: Vec<PepperId> = [],
    }
    check |_, _| {}
}

section! {
    /// A pepper of a keyring file.
    ["peppers"] struct Entry {
        /// Its id.
        id: PepperId,
        /// 32 random bytes in base64.
        pepper: PepperBytes,
        /// When it was made.
        created: Option<Created>,
    }
    check |_, _| {}
}

/// What stands in a keyring file.
#[derive(Debug, Clone)]
pub struct Peppers {
    current: PepperId,
    entries: Vec<PepperEntry>,
    retired: Vec<PepperId>,
}

/// One pepper as the file has it.
#[derive(Debug, Clone)]
pub struct PepperEntry {
    /// Its id.
    pub id: PepperId,
    /// When it was made, if the file says so.
    pub created: Option<Timestamp>,
    pepper: SecretBytes<PEPPER_LEN>,
}

impl Peppers {
    /// A keyring of one new pepper, `id`.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(id: PepperId, now: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let entry = PepperEntry::generate(id.clone(), now, entropy)?;
        Ok(Self { current: id, entries: vec![entry], retired: Vec::new() })
    }

    /// Which pepper new keys are made under.
    #[must_use]
    pub const fn current(&self) -> &PepperId {
        &self.current
    }

    /// The peppers, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[PepperEntry] {
        &self.entries
    }

    /// Peppers that were taken out on purpose.
    #[must_use]
    pub fn retired(&self) -> &[PepperId] {
        &self.retired
    }

    /// Whether there is a pepper called `id`.
    #[must_use]
    pub fn contains(&self, id: &PepperId) -> bool {
        self.entries.iter().any(|entry| entry.id == *id)
    }

    /// Adds a new pepper, which only verifies until [`Self::switch`].
    ///
    /// # Errors
    /// When the id is taken, or there is no randomness.
    pub fn add(&mut self, id: PepperId, now: Timestamp, entropy: &dyn Entropy) -> Result<(), KeyringFileError> {
        if self.contains(&id) {
            let problem = format!("there is a pepper `{id}` already: choose another id");
            return Err(KeyringFileError::Refused(problem));
        }
        if self.retired.contains(&id) {
            let problem = format!("there was a pepper `{id}`, which is retired: choose another id");
            return Err(KeyringFileError::Refused(problem));
        }
        self.entries.push(PepperEntry::generate(id, now, entropy)?);
        Ok(())
    }

    /// An id for a new pepper that nobody names: today's date, with a number behind it if need be.
    ///
    /// # Errors
    /// When every such id is taken.
    pub fn free_id(&self, now: Timestamp) -> Result<PepperId, KeyringFileError> {
        let date = super::setup::date(now);
        let names = std::iter::once(date.clone()).chain((2..100).map(|number| format!("{date}-{number}")));
        let mut ids = names.filter_map(|name| PepperId::parse(&name).ok());
        let free = ids.find(|id| !self.contains(id) && !self.retired.contains(id));
        free.ok_or_else(|| KeyringFileError::Refused("every id of today is taken: choose one yourself".to_owned()))
    }

    /// Makes new keys under `id` from now on.
    ///
    /// # Errors
    /// When there is no such pepper.
    pub fn switch(&mut self, id: &PepperId) -> Result<(), KeyringFileError> {
        self.must_contain(id)?;
        self.current = id.clone();
        Ok(())
    }

    /// Removes a pepper. Keys under it never pass again.
    ///
    /// # Errors
    /// When there is no such pepper, or it is the current one.
    pub fn retire(&mut self, id: &PepperId) -> Result<(), KeyringFileError> {
        self.must_contain(id)?;
        if self.current == *id {
            let problem = format!("`{id}` is the current pepper: switch to another with `keyclasp keyring use` first");
            return Err(KeyringFileError::Refused(problem));
        }
        self.entries.retain(|entry| entry.id != *id);
        self.retired.push(id.clone());
        Ok(())
    }

    /// Whether there is a pepper called `id`.
    ///
    /// # Errors
    /// Says which there are.
    pub fn must_contain(&self, id: &PepperId) -> Result<(), KeyringFileError> {
        if self.contains(id) {
            return Ok(());
        }
        let ids: Vec<_> = self.entries.iter().map(|entry| format!("`{}`", entry.id)).collect();
        Err(KeyringFileError::Refused(format!("there is no pepper `{id}`: the keyring has {}", ids.join(", "))))
    }

    /// The text of the file.
    #[must_use]
    pub fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(512 + 256 * self.entries.len()));
        text.push_str(
            "# The peppers of keyclasp: secrets. Back this file up, apart from the store: without it no key verifies.\n\
             # Written by `keyclasp keyring`, which keeps no comments.\n\n",
        );
        let _ = writeln!(text, "current = \"{}\"", self.current);
        if !self.retired.is_empty() {
            let retired: Vec<_> = self.retired.iter().map(|id| format!("\"{id}\"")).collect();
            let _ = writeln!(text, "retired = [{}]", retired.join(", "));
        }
        for entry in &self.entries {
            let pepper = Zeroizing::new(BASE64.encode(entry.pepper.expose()));
            let _ = writeln!(text, "\n[[peppers]]\nid = \"{}\"\npepper = \"{}\"", entry.id, *pepper);
            if let Some(created) = entry.created {
                let _ = writeln!(text, "created = \"{created}\"");
            }
        }
        text
    }
}

impl PepperEntry {
    /// With its derived keys.
    pub(super) fn derive(&self) -> Pepper {
        Pepper::new(self.id.clone(), &self.pepper)
    }

    fn generate(id: PepperId, now: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut bytes = random::bytes::<PEPPER_LEN>(entropy)?;
        let pepper = SecretBytes::new(bytes);
        bytes.zeroize();
        Ok(Self { id, created: Some(now), pepper })
    }
}

pub(super) fn parse(text: &str, path: &Path, problems: &mut Problems) -> Option<Peppers> {
    let base = source::directory(path);
    let mut root = source::parse(text, path, problems);
    let tables = root.take_tables("peppers", "peppers", problems);
    let head = read::<Head>(&[&root], "", &["peppers"], &base, problems);
    let mut entries: Vec<PepperEntry> = Vec::new();
    for table in tables {
        let place = table.place.clone();
        let Some(entry) = read::<Entry>(&[&table], "peppers", &[], &base, problems) else { continue };
        if entries.iter().any(|other| other.id == entry.id) {
            let remedy = "keep one of them; if they differ, the one that keys were made under";
            problems.push(Problem::new(place, "peppers.id", "is that of another pepper too", remedy));
        }
        let created = entry.created.map(|Created(at)| at);
        entries.push(PepperEntry { id: entry.id, created, pepper: entry.pepper.0 });
    }
    let head = head?;
    if problems.is_empty() && !entries.iter().any(|entry| entry.id == head.current) {
        let place = super::setting::place(&[&root], "current");
        let remedy = "name one of the peppers in this file, or restore the one that is missing";
        problems.push(Problem::new(place, "current", "is not the id of a pepper in this file", remedy));
    }
    Some(Peppers { current: head.current, entries, retired: head.retired })
}

parsed!(PepperId, "the id of a pepper", "\"2026-11\"", PepperId::parse);

/// The bytes of a pepper.
#[derive(Debug, Clone)]
struct PepperBytes(SecretBytes<PEPPER_LEN>);

impl Setting for PepperBytes {
    fn form() -> String {
        "32 bytes in base64".to_owned()
    }

    fn example() -> String {
        "the output of `openssl rand -base64 32`".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let decoded = text(value).and_then(|text| BASE64.decode(text.as_bytes()).ok()).map(Zeroizing::new);
        let bytes = decoded.and_then(|bytes| <[u8; PEPPER_LEN]>::try_from(bytes.as_slice()).ok());
        bytes.map(|bytes| Self(SecretBytes::new(bytes))).ok_or_else(Fault::form::<Self>)
    }
}

/// When a pepper was made.
#[derive(Debug, Clone, Copy)]
struct Created(Timestamp);

parsed!(Created, "a time", "\"2026-11-21T09:00:00Z\"", |text| {
    let form = || crate::key::Invalid::new("write it as 2026-11-21T09:00:00Z");
    let time: jiff::Timestamp = text.parse().map_err(|_| form())?;
    u64::try_from(time.as_millisecond()).map(|millis| Self(Timestamp::from_millis(millis))).map_err(|_| form())
});
