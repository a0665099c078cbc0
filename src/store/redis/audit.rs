//! The verbs that read the two streams of a shard: audit events and the log.

use super::script::{Values, unexpected};
use super::{RedisStore, decimal, unreadable};
use crate::key::codec;
use crate::store::{AuditCursor, AuditPage, AuditQuery, LogCursor, LogEntry, LogPage, StoreError};

/// Most events that one call looks at.
const LOOK_AT: usize = 1000;
/// Most log entries that one call answers.
const MOST_ENTRIES: usize = 10_000;

impl RedisStore {
    /// See [`crate::store::Store::audit`].
    pub(super) async fn audit_page(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let keys = self.check_shard(query.shard)?;
        let after = query.after.map(|AuditCursor { position, index }| format!("({position}-{index}"));
        let (command, from, to) = if query.newest_first {
            ("XREVRANGE", after.as_deref().unwrap_or("+"), "-")
        } else {
            ("XRANGE", after.as_deref().unwrap_or("-"), "+")
        };
        // Few events match a filter, so more are looked at than asked for; and one more than that,
        // which tells whether there is more.
        let look_at = query.limit.saturating_mul(4).clamp(100, LOOK_AT);
        let count = (look_at + 1).to_string();
        let args = [command, from, to, &count].map(|arg| arg.as_bytes().to_vec());
        let args: Vec<_> = std::iter::once(self.expected(query.shard)?.incarnation.to_vec()).chain(args).collect();
        let call = self.scripts.audit.call(vec![keys.incarnation(), keys.audit()], args);
        let (_, mut values) = self.read(&call, self.link.budget()).await?;
        let mut found = values.array()?;
        let mut events = Vec::new();
        let mut next = None;
        for _ in 0..look_at {
            if found.is_empty() || events.len() >= query.limit {
                break;
            }
            let (position, index, bytes) = entry(found.array()?)?;
            let index = u32::try_from(index).map_err(|_| unexpected("an audit event's place"))?;
            let cursor = AuditCursor { position, index };
            let event = codec::decode_event(&bytes)
                .map_err(|error| unreadable(format!("the audit event {position}-{index}"), error))?;
            if query.filter.matches(&event) {
                events.push((cursor, event));
            }
            next = Some(cursor);
        }
        Ok(AuditPage { events, next: next.filter(|_| !found.is_empty()) })
    }

    /// See [`crate::store::Store::log`].
    pub(super) async fn log_page(
        &self,
        shard: u16,
        after: Option<LogCursor>,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let keys = self.check_shard(shard)?;
        let limit = limit.min(MOST_ENTRIES);
        let position = after.map_or(0, |after| after.position);
        let args = vec![self.expected(shard)?.incarnation.to_vec(), decimal(position), decimal(limit as u64)];
        let call = self.scripts.log.call(vec![keys.incarnation(), keys.position(), keys.log()], args);
        let (incarnation, mut values) = self.read(&call, self.link.budget()).await?;
        let epoch = incarnation.epoch();
        let tail = values.number()?;
        let gap = LogPage { epoch, tail, gap: true, entries: Vec::new() };
        if after.is_some_and(|after| after.epoch != epoch || after.position > tail) {
            return Ok(gap);
        }
        let mut found = values.array()?;
        let mut entries: Vec<LogEntry> = Vec::new();
        while !found.is_empty() {
            let entry = log_entry(found.array()?)?;
            // Positions grow by one. Where one is missing, what comes behind it is for the next call,
            // which finds the gap in front of it.
            let expected = entries.last().map_or(position, |last| last.position) + 1;
            if entry.position != expected {
                break;
            }
            entries.push(entry);
        }
        if entries.is_empty() && position < tail && limit > 0 {
            return Ok(gap);
        }
        Ok(LogPage { epoch, tail, gap: false, entries })
    }
}

/// Place and only value of a stream's entry.
fn entry(mut entry: Values) -> Result<(u64, u64, Vec<u8>), StoreError> {
    let (position, index) = place(&entry.bytes()?)?;
    let mut fields = entry.array()?;
    fields.bytes()?;
    Ok((position, index, fields.bytes()?))
}

fn log_entry(mut entry: Values) -> Result<LogEntry, StoreError> {
    let (position, _) = place(&entry.bytes()?)?;
    let mut fields = entry.array()?;
    fields.bytes()?;
    let id = String::from_utf8(fields.bytes()?).ok().and_then(|id| id.parse().ok());
    fields.bytes()?;
    let version = fields.number()?;
    Ok(LogEntry { position, id: id.ok_or_else(|| unexpected("a key's id"))?, version })
}

/// A place in a stream: position and index.
pub(super) fn place(bytes: &[u8]) -> Result<(u64, u64), StoreError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.split_once('-'))
        .and_then(|(position, index)| Some((position.parse().ok()?, index.parse().ok()?)))
        .ok_or_else(|| unexpected("a place in a stream"))
}
