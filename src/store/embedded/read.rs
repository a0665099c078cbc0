//! Reading: each call within one read transaction, and a bounded look at the tables.

use redb::{ReadTransaction, ReadableTable};

use super::apply::{Failure, unreadable_record};
use super::tables::{
    AUDIT, BY_OWNER, BY_REALM, IndexKey, LOG, PEPPERS, RECORDS, index_key, index_place, log_entry, owner_digest,
    realm_digest, tail,
};
use crate::clock::Timestamp;
use crate::key::codec::{Header, decode_event, decode_record};
use crate::key::{KeyId, KeyRecord, PepperId};
use crate::store::{
    AuditCursor, AuditPage, AuditQuery, Epoch, Found, ListCursor, ListPage, ListQuery, LogCursor, LogPage, ScanCursor,
    ScanPage, StoreError,
};

/// Most index entries that one call looks at: a call runs on the caller's thread.
const MAX_LOOKS: usize = 4_096;
/// Records of one page of a scan.
const SCAN_PAGE: usize = 256;

/// The table of the records, open for reading.
pub(super) type Records = redb::ReadOnlyTable<&'static [u8; 16], &'static [u8]>;

/// The record of `id`.
pub(super) fn record(records: &Records, epoch: Epoch, id: KeyId, now: Timestamp) -> Result<Option<Found>, Failure> {
    Ok(living(records, id, now)?.map(|(record, gone_at)| Found { record, gone_at, epoch }))
}

fn living(records: &Records, id: KeyId, now: Timestamp) -> Result<Option<Living>, Failure> {
    let Some(bytes) = records.get(id.as_bytes())? else { return Ok(None) };
    read_record(id, bytes.value(), now)
}

/// A record and when it goes, unless it has gone.
type Living = (Box<KeyRecord>, Option<Timestamp>);

fn read_record(id: KeyId, bytes: &[u8], now: Timestamp) -> Result<Option<Living>, Failure> {
    let unreadable = |error| Failure::One(unreadable_record(id, error));
    let header = Header::read(bytes).map_err(unreadable)?;
    if header.is_gone(now) {
        return Ok(None);
    }
    let record = decode_record(id, bytes).map_err(unreadable)?;
    Ok(Some((record, header.gone_at)))
}

/// A page of a list.
pub(super) fn list(
    transaction: &ReadTransaction,
    epoch: Epoch,
    query: &ListQuery,
    now: Timestamp,
) -> Result<ListPage, Failure> {
    let (index, digest) = match &query.owner {
        Some(owner) => (transaction.open_table(BY_OWNER)?, owner_digest(&query.realm, owner)),
        None => (transaction.open_table(BY_REALM)?, realm_digest(&query.realm)),
    };
    let records = transaction.open_table(RECORDS)?;
    let first = match &query.after {
        Some(after) => index_key(&digest, after.created_at, after.id.as_bytes()),
        None => index_key(&digest, Timestamp::default(), &[0; 16]),
    };
    let last = index_key(&digest, Timestamp::MAX, &[0xff; 16]);
    let mut page = ListPage { records: Vec::new(), epochs: vec![(0, epoch)], next: None };
    for (looks, entry) in index.range::<&IndexKey>(&first..=&last)?.enumerate() {
        let (created_at, id) = index_place(entry?.0.value());
        let place = ListCursor { created_at, id: KeyId::from_bytes(id) };
        if query.after.is_some_and(|after| place <= after) {
            continue;
        }
        if let Some((record, _)) = living(&records, place.id, now)? {
            page.records.push(*record);
        }
        if page.records.len() >= query.limit || looks >= MAX_LOOKS {
            page.next = Some(place);
            break;
        }
    }
    Ok(page)
}

/// A page of the audit log.
pub(super) fn audit(transaction: &ReadTransaction, query: &AuditQuery) -> Result<AuditPage, Failure> {
    let audit = transaction.open_table(AUDIT)?;
    let after = query.after.map(|after| (after.position, after.index));
    let mut page = AuditPage { events: Vec::new(), next: None };
    let (first, last) = match (query.newest_first, after) {
        (false, after) => (after.unwrap_or_default(), (u64::MAX, u32::MAX)),
        (true, after) => ((0, 0), after.unwrap_or((u64::MAX, u32::MAX))),
    };
    let mut range = audit.range(first..=last)?;
    for looks in 0.. {
        let Some(entry) = (if query.newest_first { range.next_back() } else { range.next() }) else { break };
        let (place, bytes) = entry?;
        let (position, index) = place.value();
        if after == Some((position, index)) {
            continue;
        }
        let cursor = AuditCursor { position, index };
        let event = decode_event(bytes.value()).map_err(|error| {
            Failure::One(StoreError::Unreadable { what: format!("audit event {position}.{index}"), error })
        })?;
        if query.filter.matches(&event) {
            page.events.push((cursor, event));
        }
        if page.events.len() >= query.limit || looks >= MAX_LOOKS {
            page.next = Some(cursor);
            break;
        }
    }
    Ok(page)
}

/// A part of the log.
pub(super) fn log(
    transaction: &ReadTransaction,
    epoch: Epoch,
    after: Option<LogCursor>,
    limit: usize,
) -> Result<LogPage, Failure> {
    let log = transaction.open_table(LOG)?;
    let tail = tail(&log)?;
    let LogCursor { epoch: their_epoch, position } = after.unwrap_or(LogCursor { epoch, position: 0 });
    let mut page = LogPage { epoch, tail, gap: true, entries: Vec::new() };
    let first = log.first()?.map_or(tail + 1, |(position, _)| position.value());
    if their_epoch != epoch || position > tail || position + 1 < first {
        return Ok(page);
    }
    page.gap = false;
    for entry in log.range(position + 1..)?.take(limit) {
        let (position, value) = entry?;
        page.entries.push(log_entry(position.value(), value.value()));
    }
    Ok(page)
}

/// A page of a scan, by id.
pub(super) fn scan(
    transaction: &ReadTransaction,
    cursor: Option<&ScanCursor>,
    now: Timestamp,
) -> Result<ScanPage, Failure> {
    let records = transaction.open_table(RECORDS)?;
    let after = match cursor {
        Some(ScanCursor(bytes)) => Some(<[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| {
            Failure::One(StoreError::Misuse("a scan goes on from a cursor that no scan gave".to_owned()))
        })?),
        None => None,
    };
    let mut page = ScanPage { records: Vec::new(), next: None };
    for (looks, entry) in records.range::<&[u8; 16]>(&after.unwrap_or_default()..)?.enumerate() {
        let (id, bytes) = entry?;
        let id = *id.value();
        if after == Some(id) {
            continue;
        }
        page.records.extend(read_record(KeyId::from_bytes(id), bytes.value(), now)?.map(|(record, _)| *record));
        if page.records.len() >= SCAN_PAGE || looks >= MAX_LOOKS {
            page.next = Some(ScanCursor(id.to_vec()));
            break;
        }
    }
    Ok(page)
}

/// The pepper checks.
pub(super) fn pepper_checks(transaction: &ReadTransaction) -> Result<Vec<(PepperId, [u8; 32])>, Failure> {
    let mut checks = Vec::new();
    for entry in transaction.open_table(PEPPERS)?.iter()? {
        let (id, check) = entry?;
        let id = PepperId::parse(id.value()).map_err(|error| {
            Failure::One(StoreError::Unreadable { what: "the id of a pepper".to_owned(), error: error.into() })
        })?;
        checks.push((id, *check.value()));
    }
    Ok(checks)
}
