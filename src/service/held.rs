//! A record as it is kept for checks of its key, with what was found out about it once.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::clock::Timestamp;
use crate::fence::Hold;
use crate::fence::cache::Weigh;
use crate::hash::TextDigest;
use crate::key::{KeyRecord, Status};
use crate::store::Found;

/// A record that may be kept.
#[derive(Debug)]
pub struct Held {
    record: Box<KeyRecord>,
    gone_at: Option<Timestamp>,
    /// The digest of the text that was verified as its key.
    verified: OnceCell<TextDigest>,
    /// The answer to a check that it passes, as the wire writes it, and the status that it tells.
    answer: OnceLock<(Status, Bytes)>,
}

impl Held {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// The answer to a check that this key passes at `now`, as `write` writes it: it says what the record
    /// says, so it is written once, and again when time alone has changed the key's status.
    pub fn valid_answer(&self, now: Timestamp, write: impl FnOnce(&KeyRecord) -> Bytes) -> Bytes {
        let status = self.record.status(now);
        match self.answer.get() {
            Some((then, answer)) if *then == status => answer.clone(),
            Some(_) => write(&self.record),
            None => {
                let answer = write(&self.record);
                let _ = self.answer.set((status, answer.clone()));
                answer
            }
        }
    }

    pub(super) const fn verified(&self) -> &OnceCell<TextDigest> {
        &self.verified
    }

    /// Whether the text with this digest was verified as its key.
    pub(super) fn is_verified_by(&self, text: &TextDigest) -> bool {
        self.verified.get().is_some_and(|verified| verified.is(text))
    }
}

impl Hold for Held {
    fn of(found: Found) -> Self {
        let Found { record, gone_at } = found;
        Self { record, gone_at, verified: OnceCell::new(), answer: OnceLock::new() }
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        self.gone_at.is_some_and(|gone_at| gone_at <= now)
    }
}

impl Weigh for Held {
    fn weight(&self) -> u64 {
        // Its texts are held twice: as values, and as the wire writes them.
        u64::try_from(size_of::<Self>() + size_of::<KeyRecord>() + 2 * texts(&self.record)).unwrap_or(u64::MAX)
    }
}

/// Bytes of what a record points to.
fn texts(record: &KeyRecord) -> usize {
    /// What a text costs besides its bytes: a pointer and a length, and what the allocator rounds up.
    const EACH: usize = 24;
    /// What the first entry of a map costs: a node has room for eleven.
    const MAP: usize = 400;
    let revocation = record.revocation.iter().flat_map(|it| [it.by.as_str(), it.reason.as_str()]);
    let suspensions = record.suspensions.values().flat_map(|it| [it.by.as_str(), it.note.as_str()]);
    let metadata = record.metadata.iter().flat_map(|(name, value)| [name, value]);
    let owner = &record.owner;
    [
        record.realm.as_str(),
        owner.reference.id(),
        owner.display_name.as_str(),
        record.name.as_str(),
        record.description.as_str(),
        record.created_by.as_str(),
    ]
    .into_iter()
    .chain(revocation)
    .chain(suspensions)
    .chain(metadata)
    .chain(record.scopes.as_slice().iter().map(|scope| scope.as_str()))
    .chain(record.allowed_principals.as_slice().iter().map(String::as_str))
    .map(|text| EACH + text.len())
    .sum::<usize>()
        + EACH * 2 * record.allowed_cidrs.texts().count()
        + MAP * (usize::from(!record.suspensions.is_empty()) + usize::from(record.metadata.iter().next().is_some()))
}
