//! A shard as everybody in this process sees it: the lease, readable without a lock, and the generation of
//! the cache that goes with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::lease::{Lease, Turn};
use crate::store::{Beaten, Epoch, LogCursor, LogPage, StoreError};

/// One shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// When the lease ends, in nanoseconds; 0: there is none. Set to 0 *before* a generation ends, and to an
    /// end *after* the next one has begun: who reads the generation first, and then this, never takes the
    /// lease of one generation for that of another.
    until: AtomicU64,
    state: Mutex<State>,
    /// The log has entries that were not applied.
    pub(super) log: Notify,
    /// Something has changed that only a beat can tell more about.
    pub(super) beat: Notify,
}

#[derive(Debug, Default)]
struct State {
    lease: Lease,
    /// How often the cache began anew.
    turns: u64,
    members: usize,
    settled: bool,
    /// Since when entries of the log have been waiting to be applied.
    behind: Option<Duration>,
    /// Why the last beat granted nothing. None: it did.
    trouble: Option<StoreError>,
    /// Why the log was not read. None: it was, or there is nothing to read.
    unread: Option<StoreError>,
}

/// A shard, for those who look after the service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The history that leases and log are of. None: none has been heard of yet.
    pub epoch: Option<Epoch>,
    /// How long ago it was first heard of.
    pub age: Option<Duration>,
    /// How long the lease still runs. None: there is none.
    pub left: Option<Duration>,
    /// Why the last beat did not renew it, or the log could not be read. None: neither.
    pub trouble: Option<StoreError>,
    /// Entries of the log that were heard of and not applied yet.
    pub lag: u64,
    /// For how long there have been some.
    pub behind: Option<Duration>,
    /// Processes that may hold a lease, this one among them.
    pub members: usize,
    /// Whether no lease of an earlier history can still run.
    pub settled: bool,
    /// How often everything in memory was dropped, the first time included.
    pub turns: u64,
}

impl Shard {
    /// Whether the lease is held.
    pub(super) fn is_held(&self, now: Duration) -> bool {
        nanos(now) < self.until.load(Ordering::Acquire)
    }

    /// See [`Lease::beaten`]. `renew` begins a new generation.
    pub(super) fn beaten(
        &self,
        sent: Duration,
        now: Duration,
        term: Duration,
        answer: &Beaten,
        renew: impl FnOnce(),
    ) -> Turn {
        let mut state = self.state();
        let turn = state.lease.beaten(sent, now, term, answer);
        if turn != Turn::Stale {
            state.members = answer.members.len();
            state.settled = answer.settled;
            state.trouble = None;
        }
        if state.lease.lag() == 0 {
            state.unread = None;
        }
        state.note_lag(now);
        self.publish(&mut state, turn, renew);
        turn
    }

    /// A beat has granted nothing.
    pub(super) fn failed(&self, error: &StoreError) {
        self.state().trouble = Some(error.clone());
    }

    /// The log could not be read.
    pub(super) fn unread(&self, error: &StoreError) {
        self.state().unread = Some(error.clone());
    }

    /// See [`Lease::read`].
    pub(super) fn read(&self, now: Duration, page: &LogPage, renew: impl FnOnce()) -> Turn {
        let mut state = self.state();
        let turn = state.lease.read(now, page);
        state.unread = None;
        state.note_lag(now);
        self.publish(&mut state, turn, renew);
        turn
    }

    /// See [`Lease::applied`].
    pub(super) fn applied(&self, position: u64) {
        let mut state = self.state();
        state.lease.applied(position);
        if state.lease.lag() == 0 {
            state.behind = None;
        }
        self.publish(&mut state, Turn::Same, || {});
    }

    /// See [`Lease::leave`].
    pub(super) fn leave(&self, renew: impl FnOnce()) {
        let mut state = self.state();
        state.lease.leave();
        self.publish(&mut state, Turn::Anew, renew);
    }

    /// See [`Lease::first_heard`].
    pub(super) fn first_heard(&self, epoch: Epoch, now: Duration) -> Duration {
        self.state().lease.first_heard(epoch, now)
    }

    /// The epoch, and since when it is known.
    pub(super) fn epoch(&self) -> Option<(Epoch, Duration)> {
        let state = self.state();
        state.lease.epoch().zip(state.lease.since())
    }

    /// How far the log has been applied, and in which turn.
    pub(super) fn cursor(&self) -> Option<(LogCursor, u64)> {
        let state = self.state();
        Some((state.lease.cursor()?, state.turns))
    }

    /// The epoch, if `is_present` says so while no other turn can come in between.
    pub(super) fn epoch_while(&self, is_present: impl FnOnce() -> bool) -> Option<Epoch> {
        let state = self.state();
        state.lease.epoch().filter(|_| is_present())
    }

    pub(super) fn standing(&self, now: Duration) -> Standing {
        let state = self.state();
        Standing {
            epoch: state.lease.epoch(),
            age: state.lease.since().map(|since| now.saturating_sub(since)),
            left: state.lease.until().and_then(|until| until.checked_sub(now)).filter(|left| !left.is_zero()),
            trouble: state.trouble.clone().or_else(|| state.unread.clone()),
            lag: state.lease.lag(),
            behind: state.behind.map(|since| now.saturating_sub(since)),
            members: state.members,
            settled: state.settled,
            turns: state.turns,
        }
    }

    fn publish(&self, state: &mut State, turn: Turn, renew: impl FnOnce()) {
        if turn == Turn::Anew {
            self.until.store(0, Ordering::Release);
            renew();
            state.turns += 1;
        }
        self.until.store(state.lease.until().map_or(0, nanos), Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can be left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_lag(&mut self, now: Duration) {
        self.behind = if self.lease.lag() == 0 { None } else { self.behind.or(Some(now)) };
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn beaten(tail: u64) -> Beaten {
        Beaten { epoch: Epoch([1; 32]), tail, settled: true, members: Vec::new() }
    }

    #[test]
    fn a_log_is_behind_from_the_first_entry_that_waits_until_none_does() {
        let shard = Shard::default();
        shard.beaten(at(10), at(11), TERM, &beaten(5), || {});
        assert_eq!(shard.standing(at(12)).behind, None);
        shard.beaten(at(20), at(21), TERM, &beaten(7), || {});
        shard.applied(6);
        let page = LogPage { epoch: Epoch([1; 32]), tail: 9, gap: false, entries: Vec::new() };
        shard.read(at(25), &page, || {});
        let standing = shard.standing(at(30));
        assert_eq!((standing.lag, standing.behind, standing.age), (3, Some(at(9)), Some(at(19))));
        shard.applied(9);
        assert_eq!(shard.standing(at(31)).behind, None);
        shard.beaten(at(40), at(41), TERM, &beaten(10), || {});
        assert_eq!(shard.standing(at(41)).behind, Some(at(0)));
        // Another history begins with nothing to apply.
        shard.beaten(at(50), at(51), TERM, &Beaten { epoch: Epoch([2; 32]), ..beaten(3) }, || {});
        assert_eq!(shard.standing(at(52)).behind, None);
    }

    #[test]
    fn why_a_beat_failed_is_known_until_one_succeeds() {
        let shard = Shard::default();
        let error = StoreError::Unavailable("why".to_owned());
        shard.failed(&error);
        assert_eq!(shard.standing(at(1)).trouble, Some(error.clone()));
        shard.beaten(at(10), at(11), TERM, &beaten(5), || {});
        assert_eq!(shard.standing(at(12)).trouble, None);
    }

    #[test]
    fn why_the_log_was_not_read_is_known_until_it_is_or_there_is_nothing_to_read() {
        let shard = Shard::default();
        let trouble = || shard.standing(at(12)).trouble;
        let error = StoreError::Unavailable("why".to_owned());
        shard.beaten(at(10), at(11), TERM, &beaten(5), || {});
        shard.unread(&error);
        // More beats that tell of entries do not hide it.
        shard.beaten(at(10), at(11), TERM, &beaten(7), || {});
        assert_eq!(trouble(), Some(error.clone()));
        let page = LogPage { epoch: Epoch([1; 32]), tail: 7, gap: false, entries: Vec::new() };
        shard.read(at(12), &page, || {});
        assert_eq!(trouble(), None);
        shard.unread(&error);
        shard.applied(7);
        shard.beaten(at(10), at(11), TERM, &beaten(7), || {});
        assert_eq!(trouble(), None);
    }
}
