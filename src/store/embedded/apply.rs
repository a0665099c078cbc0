//! One commit within a write transaction that it shares with others: checked first, then applied,
//! so that one that conflicts leaves no trace.

use redb::ReadableTable;

use super::tables::{Digest16, IndexKey, Places, Tables, index_key, log_value, owner_digest, slot_end_key};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::key::codec::{
    CodecError, Header, IdempotencyEntry, decode_idempotency, decode_record, encode_event, encode_idempotency,
    encode_record,
};
use crate::store::{Commit, Done, Effect, Epoch, Expect, Idempotency, LogCursor, Outcome, StoreError};

/// A commit as the writer needs it: everything encoded on the caller's thread.
#[derive(Debug)]
pub(super) struct Prepared {
    writes: Vec<PreparedWrite>,
    events: Vec<Vec<u8>>,
    idempotency: Option<PreparedSlot>,
    guard: Option<(Digest16, u64)>,
    epoch: Option<Epoch>,
    now: Timestamp,
    pub(super) effect: Effect,
}

#[derive(Debug)]
struct PreparedWrite {
    id: KeyId,
    version: u64,
    expects: Expect,
    bytes: Vec<u8>,
    places: Places,
}

#[derive(Debug)]
struct PreparedSlot {
    slot: [u8; 32],
    bytes: Vec<u8>,
    expires_at: Timestamp,
    replay: bool,
}

/// Why a commit was not applied.
#[derive(Debug)]
pub(super) enum Failure {
    /// This one cannot be; the others of its transaction can.
    One(StoreError),
    /// The file failed, and the whole transaction with it.
    File(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::File(error.into())
    }
}

impl Prepared {
    /// Encodes `commit`, which must have been checked.
    pub(super) fn new(commit: &Commit, now: Timestamp) -> Self {
        let writes = commit.writes.iter().map(|write| PreparedWrite {
            id: write.record.id,
            version: write.record.version,
            expects: write.expects,
            bytes: encode_record(&write.record, write.gone_at),
            places: Places::of(&write.record, write.gone_at),
        });
        let slot = |Idempotency { slot, entry, replay }: &Idempotency| PreparedSlot {
            slot: *slot,
            bytes: encode_idempotency(entry),
            expires_at: entry.expires_at,
            replay: *replay,
        };
        Self {
            writes: writes.collect(),
            events: commit.events.iter().map(encode_event).collect(),
            idempotency: commit.idempotency.as_ref().map(slot),
            guard: commit.guard.as_ref().map(|guard| (owner_digest(&guard.realm, &guard.owner), guard.max.into())),
            epoch: commit.epoch,
            now,
            effect: commit.effect,
        }
    }

    /// The records that it writes.
    pub(super) fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.writes.iter().map(|write| write.id)
    }

    /// How much of the queue it takes.
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(1 + self.writes.len() + self.events.len()).unwrap_or(u32::MAX)
    }

    /// Checks the commit against the tables, and applies it if it holds.
    pub(super) fn apply(&self, tables: &mut Tables<'_>, epoch: Epoch) -> Result<Outcome, Failure> {
        let old_slot = match &self.idempotency {
            Some(slot) => read_slot(&tables.idempotency, &slot.slot)?,
            None => None,
        };
        if let (Some(PreparedSlot { replay: false, .. }), Some(entry)) = (&self.idempotency, &old_slot)
            && self.now < entry.expires_at
        {
            return Ok(Outcome::Replay(entry.clone()));
        }
        if self.epoch.is_some_and(|expected| expected != epoch) {
            return Ok(Outcome::Conflict);
        }
        let mut old = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            match write.check(tables, self.now)? {
                Checked::Conflict => return Ok(Outcome::Conflict),
                Checked::Holds(places) => old.push(places),
            }
        }
        if !self.guard_holds(tables, &old)? {
            return Ok(Outcome::OwnerFull);
        }

        let mut position = tables.tail()?;
        for (write, old) in self.writes.iter().zip(&old) {
            if let Some(old) = old {
                tables.unindex(old, Some(&write.places))?;
            }
            tables.records.insert(write.id.as_bytes(), write.bytes.as_slice())?;
            tables.index(&write.places)?;
            position += 1;
            tables.log.insert(position, &log_value(write.id.as_bytes(), write.version))?;
        }
        for (index, event) in (0..).zip(&self.events) {
            tables.audit.insert((position, index), event.as_slice())?;
        }
        if let Some(slot) = &self.idempotency {
            if let Some(entry) = old_slot {
                tables.idempotency_ending.remove(&slot_end_key(entry.expires_at, &slot.slot))?;
            }
            tables.idempotency.insert(&slot.slot, slot.bytes.as_slice())?;
            tables.idempotency_ending.insert(&slot_end_key(slot.expires_at, &slot.slot), ())?;
        }
        Ok(Outcome::Done(Done::alone(LogCursor { epoch, position })))
    }

    /// Whether the owner would have no more living keys than the guard allows. Looks at as many
    /// index entries as that, at most.
    fn guard_holds(&self, tables: &Tables<'_>, old: &[Option<Places>]) -> Result<bool, redb::Error> {
        let Some((owner, max)) = &self.guard else { return Ok(true) };
        let counts = |places: &&Places| places.counts(owner, self.now);
        let leaving = old.iter().flatten().filter(counts).count() as u64;
        let coming = self.writes.iter().map(|write| &write.places).filter(counts).count() as u64;
        let Some(allowed) = (max + leaving).checked_sub(coming) else { return Ok(false) };
        // Living at `now`: until later than now.
        let first = index_key(owner, Timestamp::from_millis(self.now.as_millis() + 1), &[0; 16]);
        let last = index_key(owner, Timestamp::MAX, &[0xff; 16]);
        let mut living = 0;
        for entry in tables.living.range::<&IndexKey>(&first..=&last)? {
            entry?;
            living += 1;
            if living > allowed {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a write found.
enum Checked {
    /// Something else than it expects.
    Conflict,
    /// What it expects; the places of the record that lies there, gone or not.
    Holds(Option<Places>),
}

impl PreparedWrite {
    fn check(&self, tables: &Tables<'_>, now: Timestamp) -> Result<Checked, Failure> {
        let Some(bytes) = tables.records.get(self.id.as_bytes())? else {
            let holds = self.expects == Expect::Absent;
            return Ok(if holds { Checked::Holds(None) } else { Checked::Conflict });
        };
        let unreadable = |error| Failure::One(unreadable_record(self.id, error));
        let header = Header::read(bytes.value()).map_err(unreadable)?;
        let holds = match self.expects {
            Expect::Absent => header.is_gone(now),
            Expect::Version(version) => !header.is_gone(now) && version == header.version,
        };
        if !holds {
            return Ok(Checked::Conflict);
        }
        let record = decode_record(self.id, bytes.value()).map_err(unreadable)?;
        Ok(Checked::Holds(Some(Places::of(&record, header.gone_at))))
    }
}

/// The entry of a slot, whether or not its time is over.
pub(super) fn read_slot(
    slots: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    slot: &[u8; 32],
) -> Result<Option<IdempotencyEntry>, Failure> {
    let Some(bytes) = slots.get(slot)? else { return Ok(None) };
    let entry = decode_idempotency(bytes.value())
        .map_err(|error| Failure::One(StoreError::Unreadable { what: "an idempotency entry".to_owned(), error }))?;
    Ok(Some(entry))
}

/// The error about a record whose bytes cannot be read.
pub(super) fn unreadable_record(id: KeyId, error: CodecError) -> StoreError {
    StoreError::Unreadable { what: format!("the record of {id}"), error }
}
