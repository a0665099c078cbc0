//! The verb that lists: an owner's index is one shard's, a realm's is merged out of all of them.

use std::collections::VecDeque;

use futures_util::future::{join_all, try_join_all};

use super::connection::Budget;
use super::keys::ShardKeys;
use super::lanes::Lane;
use super::script::{Values, unexpected};
use super::{RedisStore, SLACK, decimal, decode, millis};
use crate::clock::Timestamp;
use crate::key::KeyRecord;
use crate::key::codec::FORMAT;
use crate::store::{Epoch, ListCursor, ListPage, ListQuery, Store, StoreError, shard_of};

/// Most records of one page.
const MOST: usize = 1000;
/// Members beyond those asked for that one script looks at, for the sake of ghosts.
const SPARE: usize = 64;
/// Bytes of records after which one script stops.
const ROOM: usize = 4 << 20;
/// How often one call asks its shards for more. A page that needs more is answered short.
const ROUNDS: usize = 8;

impl RedisStore {
    /// See [`Store::list`].
    pub(super) async fn list_page(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError> {
        let budget = self.link.budget();
        if query.limit == 0 {
            return Err(StoreError::Misuse("a list of at most no records".to_owned()));
        }
        let limit = query.limit.min(MOST);
        let shards = match &query.owner {
            Some(owner) => {
                let shard = shard_of(owner.bucket(&query.realm), self.shards());
                shard..shard + 1
            }
            None => 0..self.shards(),
        };
        let known = shards.map(|shard| Ok((shard, self.expected(shard)?))).collect::<Result<Vec<_>, StoreError>>()?;
        let sources = known.iter().map(|(shard, known)| Source::new(*shard, query, known.incarnation.to_vec()));
        let mut merge = Merge { sources: sources.collect(), out: Vec::new() };
        for _ in 0..ROUNDS {
            merge.take(limit);
            let need = limit - merge.out.len();
            let open = merge.sources.iter().filter(|source| source.more).count();
            let dry = merge.sources.iter_mut().filter(|source| source.is_dry());
            if need == 0 || open == 0 {
                break;
            }
            // Owners are dealt to shards by digest, so each is likely to hold its share; twice the
            // share seldom needs a second round.
            let chunk = (2 * need / open + 1).min(need);
            try_join_all(dry.map(|source| self.fill(source, query, chunk, now, budget))).await?;
        }
        merge.take(limit);
        self.sweep(&merge.sources, now, budget).await;
        let epochs = known.into_iter().map(|(shard, known)| (shard, known.epoch)).collect();
        Ok(merge.finish(limit, epochs))
    }

    /// Asks a shard for what comes next.
    async fn fill(
        &self,
        source: &mut Source,
        query: &ListQuery,
        limit: usize,
        now: Timestamp,
        budget: Budget,
    ) -> Result<(), StoreError> {
        let keys = ShardKeys::new(source.shard);
        let (score, id) = match source.reached {
            Some(cursor) => (decimal(cursor.created_at.as_millis()), cursor.id.to_string().into_bytes()),
            None => (Vec::new(), Vec::new()),
        };
        let args = vec![
            source.expected.clone(),
            score,
            id,
            decimal(limit as u64),
            decimal((limit + SPARE) as u64),
            decimal(ROOM as u64),
            decimal(now.as_millis()),
            decimal(FORMAT.into()),
        ];
        let call = self.scripts.list.call(vec![keys.incarnation(), source.index.clone()], args);
        let (_, mut values) = self.read(&call, budget).await?;
        source.more = values.number()? == 1;
        let (score, id) = (values.bytes()?, values.bytes()?);
        if !id.is_empty() {
            let created_at = text(&score)?.parse().map_err(|_| unexpected("a score"))?;
            source.reached = Some(ListCursor { created_at: Timestamp::from_millis(created_at), id: parse_id(&id)? });
        }
        let mut records = values.array()?;
        while !records.is_empty() {
            let id = parse_id(&records.bytes()?)?;
            let Some((record, _)) = decode(id, &records.bytes()?, now)? else { continue };
            // The index goes by a shortened digest; the record knows.
            let owned = query.owner.as_ref().is_none_or(|owner| record.owner.reference == *owner);
            if owned && record.realm == query.realm {
                source.records.push_back(*record);
            }
        }
        source.ghosts.extend(ids(values.array()?)?);
        Ok(())
    }

    /// Takes out the members whose record is gone. That it fails is no harm: the next list tries it
    /// again.
    async fn sweep(&self, sources: &[Source], now: Timestamp, budget: Budget) {
        let sweeps = sources.iter().filter(|source| !source.ghosts.is_empty()).map(|source| async {
            let long_gone = now.as_millis().saturating_sub(millis(SLACK));
            let mut args = vec![source.expected.clone(), decimal(long_gone), decimal(FORMAT.into())];
            args.extend(source.ghosts.iter().cloned());
            let names =
                [Some(ShardKeys::new(source.shard).incarnation()), Some(source.index.clone()), source.living.clone()];
            let call = self.scripts.sweep.call(names.into_iter().flatten().collect::<Vec<_>>(), args);
            self.link.run(Lane::Write, &call, budget).await
        });
        join_all(sweeps).await;
    }
}

/// What is known of one shard's part of the list.
struct Source {
    shard: u16,
    index: String,
    /// The living keys of an owner, where the index is an owner's.
    living: Option<String>,
    /// Records that are not yet in the page, in order.
    records: VecDeque<KeyRecord>,
    /// Up to here the index was looked at.
    reached: Option<ListCursor>,
    /// Whether there is more behind that.
    more: bool,
    ghosts: Vec<Vec<u8>>,
    /// The incarnation that the list began in: all of it is of one history.
    expected: Vec<u8>,
}

impl Source {
    fn new(shard: u16, query: &ListQuery, expected: Vec<u8>) -> Self {
        let keys = ShardKeys::new(shard);
        let (index, living) = match &query.owner {
            Some(owner) => (keys.owner(&query.realm, owner), Some(keys.living(&query.realm, owner))),
            None => (keys.realm(&query.realm), None),
        };
        Self {
            shard,
            index,
            living,
            records: VecDeque::new(),
            reached: query.after,
            more: true,
            ghosts: Vec::new(),
            expected,
        }
    }

    /// Whether nobody knows what comes next.
    fn is_dry(&self) -> bool {
        self.more && self.records.is_empty()
    }
}

/// A page in the making.
struct Merge {
    sources: Vec<Source>,
    out: Vec<KeyRecord>,
}

impl Merge {
    /// Moves records into the page, in order, as long as it is certain which one is next: none that
    /// lies behind what a dry source has reached.
    fn take(&mut self, limit: usize) {
        while self.out.len() < limit {
            let bound = self.bound();
            let next = self.sources.iter_mut().filter(|source| !source.records.is_empty());
            let Some(source) = next.min_by_key(|source| source.records.front().map(place)) else { return };
            let head = source.records.front().map(place);
            if bound.is_some_and(|bound| head > bound) {
                return;
            }
            self.out.extend(source.records.pop_front());
        }
    }

    /// How far every dry source has been looked at. None: there is no dry source.
    fn bound(&self) -> Option<Option<ListCursor>> {
        self.sources.iter().filter(|source| source.is_dry()).map(|source| source.reached).min()
    }

    fn finish(self, limit: usize, epochs: Vec<(u16, Epoch)>) -> ListPage {
        let more = self.sources.iter().any(|source| source.more || !source.records.is_empty());
        let next = match self.bound() {
            _ if !more => None,
            // A short page: everything up to the bound is in it.
            Some(bound) if self.out.len() < limit => bound,
            _ => self.out.last().map(place),
        };
        ListPage { records: self.out, epochs, next }
    }
}

fn place(record: &KeyRecord) -> ListCursor {
    ListCursor { created_at: record.created_at, id: record.id }
}

fn ids(mut values: Values) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut ids = Vec::new();
    while !values.is_empty() {
        ids.push(values.bytes()?);
    }
    Ok(ids)
}

fn parse_id(bytes: &[u8]) -> Result<crate::key::KeyId, StoreError> {
    text(bytes)?.parse().map_err(|_| unexpected("a key's id"))
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| unexpected("text"))
}
