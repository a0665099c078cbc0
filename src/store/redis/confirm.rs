//! How many replicas of the Redis confirm a change: the same for everybody who uses a store, and when it may become
//! another number.
//!
//! A process that waits for fewer of them than the others would go on renewing its leases at a primary that was left,
//! and accept from memory what others have revoked at the new one. So the number is stored in each shard, and a
//! check is passed only by those who go by it. Who goes by another one may set it where nobody lives: where there
//! are no members, or none that beats within the time that its lease could run (`scripts/hello.lua`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::RedisStore;
use crate::store::{StoreError, over};

/// A timer may be late.
const SLACK: Duration = Duration::from_millis(50);

/// The id and the row of a member, as they are stored.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// What a shard answered to one who goes by another number.
#[derive(Debug)]
pub(super) struct Other {
    /// The number that its members go by.
    pub(super) confirm: u64,
    /// These.
    pub(super) rows: Vec<Row>,
    /// How long their leases last.
    pub(super) term: Duration,
}

/// The members who go by another number, by shard.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<HashMap<u16, Seen>>);

#[derive(Debug)]
struct Seen {
    rows: Vec<Row>,
    /// When they have been silent for long enough.
    silent_at: Duration,
    /// Whether one of them has beaten since the first look.
    lives: bool,
}

impl Strangers {
    /// Those of a shard that are silent for certain at `now`.
    pub(super) fn silent(&self, shard: u16, now: Duration) -> Vec<Row> {
        let shards = self.shards();
        shards.get(&shard).filter(|seen| now >= seen.silent_at).map_or_else(Vec::new, |seen| seen.rows.clone())
    }

    /// Notes what a shard answered, at `now`; answers whether one of them lives.
    fn live(&self, shard: u16, other: &Other, now: Duration) -> bool {
        let mut shards = self.shards();
        let before = shards.get(&shard);
        let beaten = before.is_some_and(|seen| other.rows.iter().any(|row| !seen.rows.contains(row)));
        match before {
            Some(seen) if !beaten => seen.lives,
            _ => {
                let silent_at = now.saturating_add(over(other.term)).saturating_add(SLACK);
                shards.insert(shard, Seen { rows: other.rows.clone(), silent_at, lives: beaten });
                beaten
            }
        }
    }

    /// A check has been passed: there are none.
    pub(super) fn forget(&self) {
        self.shards().clear();
    }

    /// Whether a check waits to see whether they live.
    pub(super) fn are_watched(&self) -> bool {
        !self.shards().is_empty()
    }

    fn shards(&self) -> MutexGuard<'_, HashMap<u16, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisStore {
    /// The error for a shard whose members go by another number.
    pub(super) fn strangers(&self, shard: u16, other: &Other) -> StoreError {
        let (location, ours, theirs) = (self.config.url.location(), self.confirming, other.confirm);
        if self.strangers.live(shard, other, self.link.now()) {
            return StoreError::Refused(format!(
                "the replicas of keyclasp that run on the store at {location} have each change confirmed by {theirs} of \
                 its Redis replicas, and the configuration here says {ours}: set store.replicas and store.wait alike on \
                 all of them; to change them, stop all of them first"
            ));
        }
        StoreError::Unavailable(format!(
            "some replica of keyclasp had each change confirmed by {theirs} of the Redis replicas at {location}, and the \
             configuration here says {ours}: waiting until its lease has ended, unless it still runs"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u8, beat: u8) -> Row {
        (vec![id], vec![beat])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn strangers_are_silent_once_none_has_beaten_for_longer_than_a_lease() {
        let strangers = Strangers::default();
        let other = |rows: &[Row]| Other { confirm: 0, rows: rows.to_vec(), term: at(100) };
        assert!(!strangers.live(0, &other(&[row(1, 1), row(2, 1)]), at(10)));
        assert!(!strangers.live(0, &other(&[row(1, 1), row(2, 1)]), at(20)));
        // One that has left is no sign of life.
        assert!(!strangers.live(0, &other(&[row(1, 1)]), at(30)));
        assert_eq!(strangers.silent(0, at(111)), []);
        assert_eq!(strangers.silent(0, at(112)).len(), 2);
        assert_eq!(strangers.silent(1, at(112)), []);
        // A beat is one, and so is somebody new; it is said until the silence has been long enough again.
        assert!(strangers.live(0, &other(&[row(1, 2)]), at(113)));
        assert!(strangers.live(0, &other(&[row(1, 2), row(3, 1)]), at(114)));
        assert!(strangers.live(0, &other(&[row(1, 2), row(3, 1)]), at(115)));
        assert_eq!(strangers.silent(0, at(215)), []);
        assert_eq!(strangers.silent(0, at(216)).len(), 2);
        strangers.forget();
        assert!(!strangers.are_watched() && strangers.silent(0, at(300)).is_empty());
    }
}
