//! The tables of the file, their keys, and how errors of redb become errors of a store.
//!
//! Stored data is an API: whoever changes a table raises [`FORMAT`].

use std::io::ErrorKind;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::key::{KeyRecord, OwnerRef, Realm};
use crate::store::{LogEntry, StoreError};

/// The format of the file that this program writes.
pub(super) const FORMAT: u32 = 1;

/// First 16 bytes of a SHA-256: an owner, or a realm.
pub(super) type Digest16 = [u8; 16];
/// Digest ‖ time ‖ id.
pub(super) type IndexKey = [u8; 40];
/// Time ‖ id.
pub(super) type EndKey = [u8; 24];
/// Time ‖ slot.
pub(super) type SlotEndKey = [u8; 40];

/// Id → the record's bytes, as `key::codec` writes them.
pub(super) const RECORDS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("records");
/// Owner ‖ created_at ‖ id.
pub(super) const BY_OWNER: TableDefinition<'_, &IndexKey, ()> = TableDefinition::new("by_owner");
/// Realm ‖ created_at ‖ id.
pub(super) const BY_REALM: TableDefinition<'_, &IndexKey, ()> = TableDefinition::new("by_realm");
/// Owner ‖ until when the key counts ‖ id, of keys that are not revoked.
pub(super) const LIVING: TableDefinition<'_, &IndexKey, ()> = TableDefinition::new("living");
/// When the record goes ‖ id.
pub(super) const ENDING: TableDefinition<'_, &EndKey, ()> = TableDefinition::new("ending");
/// Position → id ‖ version.
pub(super) const LOG: TableDefinition<'_, u64, &[u8; 24]> = TableDefinition::new("log");
/// Position, index → the event's bytes.
pub(super) const AUDIT: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("audit");
/// Slot → the entry's bytes.
pub(super) const IDEMPOTENCY: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("idempotency");
/// When an entry is forgotten ‖ slot.
pub(super) const IDEMPOTENCY_ENDING: TableDefinition<'_, &SlotEndKey, ()> = TableDefinition::new("idempotency_ending");
/// Pepper id → check.
pub(super) const PEPPERS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("peppers");
/// What the file is: [`META_FORMAT`], [`META_EPOCH`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// [`FORMAT`], big-endian.
pub(super) const META_FORMAT: &str = "format";
/// 32 random bytes, made with the file: it has one history.
pub(super) const META_EPOCH: &str = "epoch";

/// Every table but the peppers' and the file's own, open for writing.
pub(super) struct Tables<'txn> {
    pub(super) records: Table<'txn, &'static [u8; 16], &'static [u8]>,
    pub(super) by_owner: Table<'txn, &'static IndexKey, ()>,
    pub(super) by_realm: Table<'txn, &'static IndexKey, ()>,
    pub(super) living: Table<'txn, &'static IndexKey, ()>,
    pub(super) ending: Table<'txn, &'static EndKey, ()>,
    pub(super) log: Table<'txn, u64, &'static [u8; 24]>,
    pub(super) audit: Table<'txn, (u64, u32), &'static [u8]>,
    pub(super) idempotency: Table<'txn, &'static [u8; 32], &'static [u8]>,
    pub(super) idempotency_ending: Table<'txn, &'static SlotEndKey, ()>,
    pub(super) peppers: Table<'txn, &'static str, &'static [u8; 32]>,
}

impl<'txn> Tables<'txn> {
    /// Opens the tables, and makes those that do not exist.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            by_owner: transaction.open_table(BY_OWNER)?,
            by_realm: transaction.open_table(BY_REALM)?,
            living: transaction.open_table(LIVING)?,
            ending: transaction.open_table(ENDING)?,
            log: transaction.open_table(LOG)?,
            audit: transaction.open_table(AUDIT)?,
            idempotency: transaction.open_table(IDEMPOTENCY)?,
            idempotency_ending: transaction.open_table(IDEMPOTENCY_ENDING)?,
            peppers: transaction.open_table(PEPPERS)?,
        })
    }

    /// Position of the newest log entry; 0: none.
    pub(super) fn tail(&self) -> Result<u64, redb::Error> {
        tail(&self.log)
    }

    /// Puts a record's places into the indexes.
    pub(super) fn index(&mut self, places: &Places) -> Result<(), redb::Error> {
        self.by_owner.insert(&places.by_owner, ())?;
        self.by_realm.insert(&places.by_realm, ())?;
        if let Some(key) = &places.living {
            self.living.insert(key, ())?;
        }
        if let Some(key) = &places.ending {
            self.ending.insert(key, ())?;
        }
        Ok(())
    }

    /// Takes from the indexes what of a record's old places the new ones do not have.
    pub(super) fn unindex(&mut self, old: &Places, new: Option<&Places>) -> Result<(), redb::Error> {
        if new.is_none_or(|new| new.by_owner != old.by_owner) {
            self.by_owner.remove(&old.by_owner)?;
        }
        if new.is_none_or(|new| new.by_realm != old.by_realm) {
            self.by_realm.remove(&old.by_realm)?;
        }
        if let Some(key) = &old.living
            && new.is_none_or(|new| new.living != old.living)
        {
            self.living.remove(key)?;
        }
        if let Some(key) = &old.ending
            && new.is_none_or(|new| new.ending != old.ending)
        {
            self.ending.remove(key)?;
        }
        Ok(())
    }
}

/// Position of the newest entry of `log`; 0: none.
pub(super) fn tail(log: &impl ReadableTable<u64, &'static [u8; 24]>) -> Result<u64, redb::Error> {
    Ok(log.last()?.map_or(0, |(position, _)| position.value()))
}

/// Where the indexes hold a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) owner: Digest16,
    pub(super) by_owner: IndexKey,
    pub(super) by_realm: IndexKey,
    /// None: it is revoked and does not count.
    pub(super) living: Option<IndexKey>,
    pub(super) ending: Option<EndKey>,
    /// Until when it counts; a record that has gone does not, whatever it says.
    living_until: Option<Timestamp>,
}

impl Places {
    /// The places of `record`, which goes at `gone_at`.
    pub(super) fn of(record: &KeyRecord, gone_at: Option<Timestamp>) -> Self {
        let (owner, id) = (owner_digest(&record.realm, &record.owner.reference), record.id.as_bytes());
        let living_until = record.living_until().map(|until| gone_at.map_or(until, |gone_at| until.min(gone_at)));
        Self {
            owner,
            by_owner: index_key(&owner, record.created_at, id),
            by_realm: index_key(&realm_digest(&record.realm), record.created_at, id),
            living: living_until.map(|until| index_key(&owner, until, id)),
            ending: gone_at.map(|gone_at| end_key(gone_at, id)),
            living_until,
        }
    }

    /// Whether it counts for `owner` at `now`.
    pub(super) fn counts(&self, owner: &Digest16, now: Timestamp) -> bool {
        self.owner == *owner && self.living_until.is_some_and(|until| now < until)
    }
}

/// What stands for an owner in the indexes.
pub(super) fn owner_digest(realm: &Realm, owner: &OwnerRef) -> Digest16 {
    concat(&[&owner.digest(realm)])
}

/// What stands for a realm in the indexes.
pub(super) fn realm_digest(realm: &Realm) -> Digest16 {
    concat(&[&Sha256::digest(realm.as_str())])
}

/// Digest ‖ time ‖ id.
pub(super) fn index_key(digest: &Digest16, time: Timestamp, id: &[u8; 16]) -> IndexKey {
    concat(&[digest, &time.as_millis().to_be_bytes(), id])
}

/// The time and the id of an index key.
pub(super) fn index_place(key: &IndexKey) -> (Timestamp, [u8; 16]) {
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, id @ ..] = *key;
    (Timestamp::from_millis(u64::from_be_bytes([a, b, c, d, e, f, g, h])), id)
}

/// Time ‖ id.
pub(super) fn end_key(time: Timestamp, id: &[u8; 16]) -> EndKey {
    concat(&[&time.as_millis().to_be_bytes(), id])
}

/// Time ‖ slot.
pub(super) fn slot_end_key(time: Timestamp, slot: &[u8; 32]) -> SlotEndKey {
    concat(&[&time.as_millis().to_be_bytes(), slot])
}

/// Id ‖ version.
pub(super) fn log_value(id: &[u8; 16], version: u64) -> [u8; 24] {
    concat(&[id, &version.to_be_bytes()])
}

/// The log entry of a position.
pub(super) fn log_entry(position: u64, value: &[u8; 24]) -> LogEntry {
    let [id @ .., a, b, c, d, e, f, g, h] = *value;
    LogEntry { position, id: crate::key::KeyId::from_bytes(id), version: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
}

/// The parts in a row, cut to `N` bytes.
pub(super) fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(parts.iter().copied().flatten()).for_each(|(to, from)| *to = *from);
    all
}

/// What an error of redb means to whoever called the store.
pub(super) fn store_error(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Io(io)
            if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) =>
        {
            StoreError::Full(format!("{io}; free some space where its file lies"))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_time_and_are_read_back() {
        let (early, late) = (Timestamp::from_millis(255), Timestamp::from_millis(256));
        assert!(index_key(&[1; 16], early, &[9; 16]) < index_key(&[1; 16], late, &[0; 16]));
        assert!(index_key(&[1; 16], Timestamp::MAX, &[9; 16]) < index_key(&[2; 16], early, &[0; 16]));
        assert_eq!(index_place(&index_key(&[1; 16], late, &[7; 16])), (late, [7; 16]));
        let entry = log_entry(3, &log_value(&[5; 16], 0x0102_0304_0506_0708));
        assert_eq!((entry.position, entry.id.as_bytes(), entry.version), (3, &[5; 16], 0x0102_0304_0506_0708));
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let io = |kind: ErrorKind| store_error(&redb::Error::Io(kind.into()));
        assert!(matches!(io(ErrorKind::StorageFull), StoreError::Full(_)));
        assert!(matches!(io(ErrorKind::QuotaExceeded), StoreError::Full(_)));
        assert!(matches!(io(ErrorKind::TimedOut), StoreError::Unavailable(_)));
        assert!(matches!(store_error(&redb::Error::PreviousIo), StoreError::Unavailable(_)));
    }
}
