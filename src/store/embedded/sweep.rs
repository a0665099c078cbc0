//! The sweeper: removes what is past its time or beyond its bound, a bounded number at once. What
//! it has not come to yet is absent all the same: every read compares with its `now`.

use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{EndKey, Places, SlotEndKey, Tables, end_key, slot_end_key};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::key::codec::{Header, decode_record};

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Records that had gone, with their places in the indexes.
    pub records: usize,
    /// Idempotency entries past their time.
    pub idempotency: usize,
    /// Log entries beyond the bound, the oldest ones.
    pub log: usize,
    /// Audit events beyond the bound, the oldest ones.
    pub audit: usize,
    /// Whether there was more to remove than one sweep may.
    pub more: bool,
}

/// What a sweep may remove.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Things at once.
    pub(super) limit: usize,
    /// Log entries to keep.
    pub(super) log: u64,
    /// Audit events to keep.
    pub(super) audit: u64,
}

/// Sweeps within a write transaction.
pub(super) fn sweep(tables: &mut Tables<'_>, bounds: Bounds, now: Timestamp) -> Result<Swept, redb::Error> {
    let mut swept = Swept::default();
    let mut left = bounds.limit;

    let ended: Vec<_> = taken(tables.ending.range::<&EndKey>(..=&end_key(now, &[0xff; 16]))?, left)?;
    for key in &ended {
        let [_, _, _, _, _, _, _, _, id @ ..] = *key;
        remove_record(tables, id, now)?;
        tables.ending.remove(key)?;
    }
    swept.records = ended.len();
    left -= ended.len();

    let ended: Vec<_> =
        taken(tables.idempotency_ending.range::<&SlotEndKey>(..=&slot_end_key(now, &[0xff; 32]))?, left)?;
    for key in &ended {
        let [_, _, _, _, _, _, _, _, slot @ ..] = *key;
        tables.idempotency.remove(&slot)?;
        tables.idempotency_ending.remove(key)?;
    }
    swept.idempotency = ended.len();
    left -= ended.len();

    // One entry stays whatever the bound: it holds the position.
    let too_many = tables.log.len()?.saturating_sub(bounds.log.max(1));
    while left > 0 && (swept.log as u64) < too_many && tables.log.pop_first()?.is_some() {
        swept.log += 1;
        left -= 1;
    }

    let too_many = tables.audit.len()?.saturating_sub(bounds.audit);
    while left > 0 && (swept.audit as u64) < too_many && tables.audit.pop_first()?.is_some() {
        swept.audit += 1;
        left -= 1;
    }
    swept.more = left == 0;
    Ok(swept)
}

fn taken<const N: usize>(
    range: redb::Range<'_, &'static [u8; N], ()>,
    limit: usize,
) -> Result<Vec<[u8; N]>, redb::Error> {
    range.take(limit).map(|entry| Ok(*entry?.0.value())).collect()
}

/// Removes the record of `id` and its places, if it has gone. What cannot be read stays where it
/// is, for whoever can.
fn remove_record(tables: &mut Tables<'_>, id: [u8; 16], now: Timestamp) -> Result<(), redb::Error> {
    let places = match tables.records.get(&id)? {
        None => return Ok(()),
        Some(bytes) => match (Header::read(bytes.value()), decode_record(KeyId::from_bytes(id), bytes.value())) {
            (Ok(header), Ok(record)) if header.is_gone(now) => Places::of(&record, header.gone_at),
            _ => return Ok(()),
        },
    };
    tables.unindex(&places, None)?;
    tables.records.remove(&id)?;
    Ok(())
}
