//! The audit log, read: events of all shards merged by time.

use std::sync::Arc;

use super::access::{Call, Realms, Right};
use super::error::Error;
use super::{Core, page, require, require_somewhere};
use crate::clock::Timestamp;
use crate::key::{Action, Actor, Event, KeyId, OwnerRef, Realm};
use crate::store::{AuditCursor, AuditFilter, AuditPage, AuditQuery};

/// Which events to list.
#[derive(Debug, Clone)]
pub struct EventListing {
    /// Of this realm; none: of every realm in which the caller is an auditor.
    pub realm: Option<Realm>,
    /// Of this key.
    pub key_id: Option<KeyId>,
    /// Of this owner's keys.
    pub owner: Option<OwnerRef>,
    /// By this actor.
    pub actor: Option<Actor>,
    /// This action.
    pub action: Option<Action>,
    /// At or after this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub before: Option<Timestamp>,
    /// The newest first.
    pub newest_first: bool,
    /// At most so many.
    pub page_size: usize,
    /// From here on.
    pub page_token: String,
}

/// An event and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its shard.
    pub shard: u16,
    /// Its place there.
    pub place: AuditCursor,
    /// The event.
    pub event: Event,
}

/// One page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Located>,
    /// For the next page; empty: this was the last.
    pub next_page_token: String,
}

/// How often a shard is asked again within one call, when it looked at many events that do not match.
const MAX_ROUNDS: usize = 8;

/// Reading the audit log.
#[derive(Debug, Clone)]
pub struct AuditLog {
    core: Arc<Core>,
}

/// How far one shard was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Start,
    After(AuditCursor),
    Done,
}

impl AuditLog {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Lists events: each shard's in the order of its log, across shards by time.
    ///
    /// # Errors
    /// When the caller may not, the token is not of this list, or the store did not answer.
    pub async fn list(&self, call: &Call, listing: &EventListing) -> Result<EventPage, Error> {
        let realms = match &listing.realm {
            Some(realm) => {
                require(&call.principal, Right::ReadAudit, realm)?;
                Some(vec![realm.clone()])
            }
            None => {
                require_somewhere(&call.principal, Right::ReadAudit)?;
                match call.principal.realms_with(Right::ReadAudit) {
                    Realms::All => None,
                    Realms::Only(realms) => Some(realms),
                }
            }
        };
        let filter = AuditFilter {
            realms,
            key_id: listing.key_id,
            owner: listing.owner.clone(),
            actor: listing.actor.clone(),
            action: listing.action,
            since: listing.since,
            before: listing.before,
        };
        let binding = page::Binding::new(&format!("events {filter:?} {}", listing.newest_first));
        let shards = self.core.store.shards();
        let mut progress = match page::read(binding, &listing.page_token)? {
            Some(places) => read_progress(&places, shards)?,
            None => vec![Progress::Start; usize::from(shards)],
        };
        let mut pages = Vec::with_capacity(progress.len());
        for (shard, progress) in (0..shards).zip(&mut progress) {
            pages.push(self.fill(shard, progress, &filter, listing).await?);
        }
        let events = merge(&mut pages, &mut progress, listing);
        let done = progress.iter().all(|progress| *progress == Progress::Done);
        let next_page_token = if done { String::new() } else { page::write(binding, &write_progress(&progress)) };
        Ok(EventPage { events, next_page_token })
    }

    /// How many events to ask one shard for: about twice its part of a page, so that a page of many
    /// shards is not many pages in memory.
    fn share(&self, page_size: usize) -> usize {
        let shards = usize::from(self.core.store.shards().max(1));
        page_size.min(2 * page_size / shards + 8)
    }

    /// The next events of one shard. Moves `progress` over events that do not match.
    async fn fill(
        &self,
        shard: u16,
        progress: &mut Progress,
        filter: &AuditFilter,
        listing: &EventListing,
    ) -> Result<AuditPage, Error> {
        for _ in 0..MAX_ROUNDS {
            let after = match *progress {
                Progress::Start => None,
                Progress::After(place) => Some(place),
                Progress::Done => return Ok(AuditPage { events: Vec::new(), next: None }),
            };
            let query = AuditQuery {
                shard,
                after,
                newest_first: listing.newest_first,
                filter: filter.clone(),
                limit: self.share(listing.page_size),
            };
            let page = self.core.store.audit(&query).await.map_err(Error::unread)?;
            match (page.events.is_empty(), page.next) {
                (false, _) => return Ok(page),
                (true, Some(place)) => *progress = Progress::After(place),
                (true, None) => *progress = Progress::Done,
            }
        }
        // Still nothing, and more behind it: until it is read, nothing can be said to come first.
        Ok(AuditPage {
            events: Vec::new(),
            next: match *progress {
                Progress::After(place) => Some(place),
                _ => None,
            },
        })
    }
}

/// Takes events from the pages in order of their time, at most a page of them, and moves each
/// shard's progress behind what was taken.
fn merge(pages: &mut [AuditPage], progress: &mut [Progress], listing: &EventListing) -> Vec<Located> {
    let mut heads: Vec<_> =
        pages.iter_mut().map(|page| (std::mem::take(&mut page.events).into_iter().peekable(), page.next)).collect();
    let mut events = Vec::new();
    while events.len() < listing.page_size {
        // A shard that has more but has shown nothing yet may hold the next event.
        if heads.iter_mut().any(|(events, next)| events.peek().is_none() && next.is_some()) {
            break;
        }
        let times = heads
            .iter_mut()
            .enumerate()
            .filter_map(|(shard, (events, _))| events.peek().map(|(_, event)| (event.at, shard)));
        // The first of equal times is the lower shard, in both directions.
        let chosen = if listing.newest_first {
            times.max_by_key(|&(at, shard)| (at, std::cmp::Reverse(shard)))
        } else {
            times.min()
        };
        let Some((_, shard)) = chosen else { break };
        let (Some((head, next)), Some(progress)) = (heads.get_mut(shard), progress.get_mut(shard)) else { break };
        let Some((place, event)) = head.next() else { break };
        *progress = if head.peek().is_none() && next.is_none() { Progress::Done } else { Progress::After(place) };
        events.push(Located { shard: u16::try_from(shard).unwrap_or(u16::MAX), place, event });
    }
    events
}

/// Each shard's progress: a position and an index; the position 0 is the start, `u64::MAX` the end.
fn write_progress(progress: &[Progress]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(progress.len() * 12);
    for one in progress {
        let (position, index) = match one {
            Progress::Start => (0, 0),
            Progress::After(place) => (place.position, place.index),
            Progress::Done => (u64::MAX, 0),
        };
        bytes.extend_from_slice(&position.to_be_bytes());
        bytes.extend_from_slice(&index.to_be_bytes());
    }
    bytes
}

fn read_progress(bytes: &[u8], shards: u16) -> Result<Vec<Progress>, Error> {
    if bytes.len() != usize::from(shards) * 12 {
        return Err(page::invalid());
    }
    bytes
        .chunks_exact(12)
        .map(|chunk| {
            let (position, index) = chunk.split_at_checked(8).ok_or_else(page::invalid)?;
            let position = u64::from_be_bytes(position.try_into().map_err(|_| page::invalid())?);
            let index = u32::from_be_bytes(index.try_into().map_err(|_| page::invalid())?);
            Ok(match position {
                0 => Progress::Start,
                u64::MAX => Progress::Done,
                position => Progress::After(AuditCursor { position, index }),
            })
        })
        .collect()
}
