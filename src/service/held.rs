//! A record as it is kept for checks of its key, with what was found out about it once.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::clock::Timestamp;
use crate::fence::Hold;
use crate::fence::cache::Weigh;
use crate::hash::TextDigest;
use crate::key::{Brief, KeyRecord};
use crate::store::Found;

/// A record that may be kept.
#[derive(Debug)]
pub struct Held {
    record: Box<KeyRecord>,
    gone_at: Option<Timestamp>,
    /// What checks look at, made by the first one of a record that somebody keeps.
    brief: OnceLock<Brief>,
    /// The digest of the text that was verified as its key.
    verified: OnceCell<TextDigest>,
    /// The answer to a check that it passes, as the wire writes it.
    answer: OnceLock<Bytes>,
}

impl Held {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// What checks look at.
    #[must_use]
    pub fn brief(&self) -> &Brief {
        self.brief.get_or_init(|| Brief::of(&self.record))
    }

    /// The answer to a check that this key passes, as `write` writes it the first time. A key that passes
    /// is active, whenever that is, so the answer says what the record says and nothing else.
    pub fn valid_answer(&self, write: impl FnOnce(&KeyRecord) -> Vec<u8>) -> Bytes {
        // Kept for long, so without the room that it was written into.
        self.answer.get_or_init(|| write(&self.record).into_boxed_slice().into()).clone()
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
        let Found { record, gone_at, .. } = found;
        Self { record, gone_at, brief: OnceLock::new(), verified: OnceCell::new(), answer: OnceLock::new() }
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        self.gone_at.is_some_and(|gone_at| gone_at <= now)
    }
}

impl Weigh for Held {
    fn weight(&self) -> u64 {
        // Its texts are held twice, as values and as the wire writes them, and some of them a third time.
        let texts = 2 * texts(&self.record) + Brief::weight(&self.record);
        u64::try_from(size_of::<Self>() + size_of::<KeyRecord>() + texts).unwrap_or(u64::MAX)
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
