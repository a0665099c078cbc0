//! The verb that goes over everything: for maintenance.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::keys::{RECORDS, ShardKeys, parse_record};
use super::script::{Incarnation, Values};
use super::{RedisStore, decode, unexpected};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};
use crate::store::{ScanCursor, ScanPage, Store, StoreError, shard_of};

use super::connection::Budget;

/// Keys that Redis looks at per round, of whatever kind.
const LOOK_AT: &str = "512";
/// Rounds of one call that found nothing, before it answers an empty page.
const ROUNDS: usize = 16;
/// Bytes of the cursor: Redis' own, then the incarnation that it is of.
const CURSOR: usize = 8 + Incarnation::LEN;

impl RedisStore {
    /// See [`Store::scan`]. A scan belongs to one incarnation of shard 0, and so to one run of the
    /// server: Redis' cursors mean nothing in another one.
    pub(super) async fn scan_page(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError> {
        let budget = self.link.budget();
        let expected = self.expected(0)?.incarnation.to_vec();
        let mut place = match &cursor {
            None => 0,
            Some(cursor) => match parse(cursor)? {
                (place, incarnation) if incarnation.to_vec() == expected => place,
                _ => return Err(lost()),
            },
        };
        let mut records = Vec::new();
        for _ in 0..ROUNDS {
            let args = vec![expected.clone(), place.to_string().into_bytes(), RECORDS.into(), LOOK_AT.into()];
            let call = self.scripts.scan.call(vec![ShardKeys::new(0).incarnation()], args);
            let (_, mut values) = self.read(&call, budget).await?;
            place = values.number()?;
            records = self.records(values.array()?, now, budget).await?;
            if place == 0 {
                return Ok(ScanPage { records, next: None });
            }
            if !records.is_empty() {
                break;
            }
        }
        let next = [place.to_be_bytes().as_slice(), &expected].concat();
        Ok(ScanPage { records, next: Some(ScanCursor(next)) })
    }

    /// The records of these names.
    async fn records(&self, mut names: Values, now: Timestamp, budget: Budget) -> Result<Vec<KeyRecord>, StoreError> {
        let mut by_shard: BTreeMap<u16, Vec<KeyId>> = BTreeMap::new();
        while !names.is_empty() {
            let name = names.bytes()?;
            if let Some((shard, id)) = parse_record(&name)
                && shard == shard_of(id.bucket(), self.shards())
            {
                by_shard.entry(shard).or_default().push(id);
            }
        }
        let pages = by_shard.into_iter().map(|(shard, ids)| async move {
            let keys = ShardKeys::new(shard);
            let names: Vec<_> =
                std::iter::once(keys.incarnation()).chain(ids.iter().map(|id| keys.record(*id))).collect();
            let call = self.scripts.get.call(names, vec![self.expected(shard)?.incarnation.to_vec()]);
            let (_, mut values) = self.read(&call, budget).await?;
            let mut found = values.array()?;
            let mut records = Vec::new();
            for id in ids {
                if let Some(bytes) = found.optional_bytes()? {
                    records.extend(decode(id, &bytes, now)?);
                }
            }
            Ok::<_, StoreError>(records)
        });
        Ok(try_join_all(pages).await?.into_iter().flatten().map(|(record, _)| *record).collect())
    }
}

fn parse(cursor: &ScanCursor) -> Result<(u64, Incarnation), StoreError> {
    let bytes: &[u8; CURSOR] =
        cursor.0.as_slice().try_into().map_err(|_| StoreError::Misuse("a cursor of another store".to_owned()))?;
    let (place, incarnation) = bytes.split_first_chunk::<8>().ok_or_else(|| unexpected("a cursor"))?;
    let incarnation = incarnation.try_into().map_err(|_| unexpected("a cursor"))?;
    Ok((u64::from_be_bytes(*place), Incarnation::from_bytes(incarnation)))
}

fn lost() -> StoreError {
    StoreError::Unavailable("it was emptied or replaced while it was gone over; begin anew".to_owned())
}
