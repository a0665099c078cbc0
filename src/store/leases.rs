//! What several processes on one store know of each other: who may answer from memory, and how far each
//! of them has read the log. `fence` has the rules; a store only keeps the rows, atomically and in one epoch.
//!
//! A *member* is a process that may hold a lease of a shard. Its row is written by its beats, and names the
//! last of them and the last log entry that it has applied.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{Done, Epoch, LogCursor, StoreError};

/// The verbs of a store that several processes share.
#[async_trait]
pub trait Leases: Send + Sync {
    /// How long a lease lasts: the same for everybody who uses this store. Holds for the epochs that have
    /// passed the store's check.
    fn term(&self) -> Duration;

    /// Writes the row of `beat.member`, also when nothing in it is new, and answers how the shard is. A beat
    /// that came late changes no number back. With [`Beat::confirmed`] it is answered only when as many
    /// nodes have it as have to have a commit.
    async fn beat(&self, shard: u16, beat: &Beat) -> Result<Beaten, StoreError>;

    /// The rows of a shard as they are now.
    async fn members(&self, shard: u16) -> Result<Beaten, StoreError>;

    /// Deletes the row of a member if its last beat is still `member.beat`, and the epoch still `epoch`;
    /// answers whether it did.
    async fn remove(&self, shard: u16, epoch: Epoch, member: &Member) -> Result<bool, StoreError>;

    /// Deletes the row of a member that has given up its lease.
    async fn release(&self, shard: u16, member: MemberId) -> Result<(), StoreError>;

    /// Notes that no lease of an earlier epoch can still run, if the epoch is still `epoch`.
    async fn settle(&self, shard: u16, epoch: Epoch) -> Result<(), StoreError>;

    /// Writes something of no meaning, so that what was written before it is as durable as a commit once
    /// this is answered. The position is that of the last log entry.
    async fn barrier(&self, shard: u16) -> Result<Done, StoreError>;

    /// Waits until one of these shards has a log entry after its position, at most for `limit` and never
    /// longer than [`LONGEST_WAKE`]. Answers the shards that do, with the position of the last entry seen.
    /// Says nothing about epochs: it only wakes.
    async fn wake(&self, after: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError>;
}

/// The longest that [`Leases::wake`] waits.
pub const LONGEST_WAKE: Duration = Duration::from_millis(750);

/// Clocks of two machines run at rates that differ by less than a hundredth: who holds a lease gives it up
/// so much sooner, who waits for its end waits so much longer.
const MARGIN: u32 = 100;

/// How long the holder of a lease of `term` may use it, counted from when it sent its beat.
#[must_use]
pub fn usable(term: Duration) -> Duration {
    term.saturating_sub(term / MARGIN)
}

/// After how long no lease of `term` that was granted before can be held any more.
#[must_use]
pub fn over(term: Duration) -> Duration {
    term.saturating_add(term / MARGIN)
}

/// A process, for as long as it lives: random, so that no two of them ever share a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub [u8; 16]);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub member: MemberId,
    /// Which one: counted by the process, never used twice, never taken back.
    pub number: u64,
    /// The last log entry that the process has applied. Of another epoch: none of this one's.
    pub applied: Option<LogCursor>,
    /// Whether it has to be as durable as a commit: without that, it grants nothing.
    pub confirmed: bool,
}

/// A member as its row tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: MemberId,
    /// Its last beat.
    pub beat: u64,
    /// Position of the last log entry that it has applied.
    pub applied: u64,
}

/// How a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beaten {
    /// Its history.
    pub epoch: Epoch,
    /// Position of the newest log entry.
    pub tail: u64,
    /// Whether no lease of an earlier epoch can still run.
    pub settled: bool,
    /// Every member.
    pub members: Vec<Member>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_lie_on_either_side() {
        let at = Duration::from_secs;
        assert_eq!((usable(at(100)), over(at(100))), (at(99), at(101)));
    }
}
