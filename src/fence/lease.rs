//! What one process knows of one shard: the epoch, how far it has applied the log, and until when it may
//! answer from memory. Told what happened and when; asks nobody and reads no clock.
//!
//! Rules 5 to 7 of docs/CONSISTENCY.md. All times are of one clock of this process, which counts the
//! time that the machine was suspended.

use std::collections::VecDeque;
use std::time::Duration;

use crate::store::{Beaten, Epoch, LogCursor, LogPage, usable};

/// Renewals that wait for the log at a time. One more is not needed: the next beat brings another.
const MOST_OFFERS: usize = 16;
/// Epochs that were left and are remembered.
const MOST_LEFT: usize = 64;

/// The state of one shard.
#[derive(Debug, Default)]
pub struct Lease {
    /// None before the first beat was answered.
    history: Option<History>,
    /// Oldest first.
    left: VecDeque<Epoch>,
    /// An epoch that an answer told of before a beat did, and when.
    sighted: Option<(Epoch, Duration)>,
    /// The process is leaving: there is no lease any more, whatever is answered.
    leaving: bool,
}

#[derive(Debug)]
struct History {
    epoch: Epoch,
    /// When the epoch was first heard of.
    since: Duration,
    /// When this process turned to it.
    turned: Duration,
    /// Position of the last log entry that was applied.
    applied: u64,
    /// Position of the newest entry that was heard of.
    tail: u64,
    /// When the lease ends. It may have ended.
    until: Option<Duration>,
    /// Ends that hold once the log has been applied so far: (tail, end), oldest first.
    offers: VecDeque<(u64, Duration)>,
}

/// What an answer means for what is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It stands.
    Same,
    /// Nothing of it may be used: there is another history, or entries of the log were missed.
    Anew,
    /// The answer is of a history that was left or passed over, and counts for nothing.
    Stale,
}

impl Lease {
    /// A confirmed beat that was sent at `sent` for a lease of `term` has been answered, at `now`.
    pub fn beaten(&mut self, sent: Duration, now: Duration, term: Duration, answer: &Beaten) -> Turn {
        // A beat that was sent before the process turned to this history tells nothing about another one: that may
        // have come and gone meanwhile.
        if self.history.as_ref().is_some_and(|history| history.epoch != answer.epoch && sent <= history.turned) {
            return Turn::Stale;
        }
        let turn = self.turn_to(answer.epoch, answer.tail, now);
        if turn == Turn::Stale || self.leaving {
            return turn;
        }
        if let Some(history) = &mut self.history {
            let end = sent.saturating_add(usable(term));
            history.tail = history.tail.max(answer.tail);
            if history.applied >= answer.tail {
                history.extend(end);
            } else if history.offers.len() < MOST_OFFERS {
                history.offers.push_back((answer.tail, end));
            }
        }
        turn
    }

    /// A page of the log was read, after [`Self::cursor`]. Before [`Self::applied`] is called, what the
    /// entries name is dropped. No entry of a page with another turn than `Same` may be applied.
    pub fn read(&mut self, now: Duration, page: &LogPage) -> Turn {
        let turn = self.turn_to(page.epoch, page.tail, now);
        match &mut self.history {
            Some(history) if turn == Turn::Same && page.gap => {
                history.begin(page.tail);
                Turn::Anew
            }
            Some(history) if turn == Turn::Same => {
                history.tail = history.tail.max(page.tail);
                Turn::Same
            }
            _ => turn,
        }
    }

    /// Everything up to `position` has been applied.
    pub fn applied(&mut self, position: u64) {
        let Some(history) = &mut self.history else { return };
        history.applied = history.applied.max(position);
        while let Some(&(tail, end)) = history.offers.front()
            && tail <= history.applied
        {
            history.offers.pop_front();
            if !self.leaving {
                history.extend(end);
            }
        }
    }

    /// When `epoch`, which an answer at `now` was of, was first heard of.
    pub fn first_heard(&mut self, epoch: Epoch, now: Duration) -> Duration {
        match (&self.history, self.sighted) {
            (Some(history), _) if history.epoch == epoch => history.since,
            (_, Some((sighted, at))) if sighted == epoch => at,
            _ => {
                self.sighted = Some((epoch, now));
                now
            }
        }
    }

    /// The process leaves: from now on there is no lease.
    pub fn leave(&mut self) {
        self.leaving = true;
        if let Some(history) = &mut self.history {
            history.until = None;
            history.offers.clear();
        }
    }

    /// When the lease ends, which may lie in the past. None: there is none.
    #[must_use]
    pub fn until(&self) -> Option<Duration> {
        self.history.as_ref()?.until
    }

    /// The present history.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.history.as_ref().map(|history| history.epoch)
    }

    /// Since when it is known.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.history.as_ref().map(|history| history.since)
    }

    /// How far the log has been applied.
    #[must_use]
    pub fn cursor(&self) -> Option<LogCursor> {
        self.history.as_ref().map(|history| LogCursor { epoch: history.epoch, position: history.applied })
    }

    /// Entries that were heard of and not applied yet.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.history.as_ref().map_or(0, |history| history.tail.saturating_sub(history.applied))
    }

    fn turn_to(&mut self, epoch: Epoch, tail: u64, now: Duration) -> Turn {
        if self.epoch() == Some(epoch) {
            return Turn::Same;
        }
        if self.left.contains(&epoch) {
            return Turn::Stale;
        }
        let since = self.first_heard(epoch, now);
        self.sighted = None;
        let begun = History { epoch, since, turned: now, applied: tail, tail, until: None, offers: VecDeque::new() };
        if let Some(before) = self.history.replace(begun) {
            self.left.truncate(MOST_LEFT - 1);
            self.left.push_front(before.epoch);
        }
        Turn::Anew
    }
}

impl History {
    /// Goes on from `tail`, with nothing in memory and no lease.
    fn begin(&mut self, tail: u64) {
        self.applied = tail;
        self.tail = tail;
        self.until = None;
        self.offers.clear();
    }

    /// A lease never ends sooner than it was going to.
    fn extend(&mut self, end: Duration) {
        self.until = Some(self.until.map_or(end, |until| until.max(end)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogEntry;

    const TERM: Duration = Duration::from_secs(100);
    const USABLE: Duration = Duration::from_secs(99);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn epoch(number: u8) -> Epoch {
        Epoch([number; 32])
    }

    fn beaten(number: u8, tail: u64) -> Beaten {
        Beaten { epoch: epoch(number), tail, settled: false, members: Vec::new() }
    }

    fn page(number: u8, tail: u64, gap: bool) -> LogPage {
        LogPage { epoch: epoch(number), tail, gap, entries: Vec::<LogEntry>::new() }
    }

    fn held() -> Lease {
        let mut lease = Lease::default();
        assert_eq!(lease.beaten(at(10), at(11), TERM, &beaten(1, 5)), Turn::Anew);
        assert_eq!(lease.until(), Some(at(10) + USABLE));
        lease
    }

    #[test]
    fn a_lease_is_counted_from_when_its_beat_was_sent() {
        let mut lease = held();
        assert_eq!(lease.beaten(at(20), at(90), TERM, &beaten(1, 5)), Turn::Same);
        assert_eq!(lease.until(), Some(at(20) + USABLE));
        // A beat that was sent before the last one changes nothing.
        lease.beaten(at(15), at(91), TERM, &beaten(1, 5));
        assert_eq!(lease.until(), Some(at(20) + USABLE));
    }

    #[test]
    fn a_renewal_is_usable_once_its_tail_is_applied_and_until_then_the_old_one_keeps_its_end() {
        let mut lease = held();
        assert_eq!(lease.beaten(at(20), at(21), TERM, &beaten(1, 7)), Turn::Same);
        assert_eq!(lease.beaten(at(30), at(31), TERM, &beaten(1, 8)), Turn::Same);
        assert_eq!((lease.until(), lease.lag()), (Some(at(10) + USABLE), 3));
        lease.applied(6);
        assert_eq!(lease.until(), Some(at(10) + USABLE));
        lease.applied(7);
        assert_eq!(lease.until(), Some(at(20) + USABLE));
        lease.applied(8);
        assert_eq!((lease.until(), lease.lag()), (Some(at(30) + USABLE), 0));
    }

    #[test]
    fn another_epoch_begins_anew_at_its_tail_and_one_that_was_left_counts_for_nothing() {
        let mut lease = held();
        lease.beaten(at(12), at(13), TERM, &beaten(1, 9));
        assert_eq!(lease.beaten(at(20), at(21), TERM, &beaten(2, 3)), Turn::Anew);
        let cursor = lease.cursor().unwrap();
        assert_eq!((cursor.epoch, cursor.position, lease.since()), (epoch(2), 3, Some(at(21))));
        assert_eq!(lease.until(), Some(at(20) + USABLE), "the cursor is at the tail");
        assert_eq!(lease.beaten(at(30), at(31), TERM, &beaten(1, 9)), Turn::Stale);
        assert_eq!(lease.read(at(32), &page(1, 9, false)), Turn::Stale);
        assert_eq!((lease.epoch(), lease.until()), (Some(epoch(2)), Some(at(20) + USABLE)));
        // The offers of the old epoch went with it.
        lease.applied(9);
        assert_eq!(lease.until(), Some(at(20) + USABLE));
    }

    #[test]
    fn what_the_log_tells_of_another_epoch_grants_nothing() {
        let mut lease = held();
        assert_eq!(lease.read(at(20), &page(2, 3, true)), Turn::Anew);
        assert_eq!((lease.epoch(), lease.until()), (Some(epoch(2)), None));
    }

    #[test]
    fn missed_entries_drop_the_lease() {
        // Trimmed, and shorter than the cursor.
        for tail in [7, 4] {
            let mut lease = held();
            lease.beaten(at(12), at(13), TERM, &beaten(1, 6));
            assert_eq!(lease.read(at(20), &page(1, tail, true)), Turn::Anew);
            assert_eq!((lease.until(), lease.cursor().unwrap().position), (None, tail));
            lease.applied(9);
            assert_eq!(lease.until(), None, "an offer from before");
        }
    }

    #[test]
    fn a_beat_that_was_answered_late_tells_an_old_tail() {
        let mut lease = held();
        assert_eq!(lease.read(at(20), &page(1, 9, false)), Turn::Same);
        lease.applied(9);
        assert_eq!(lease.beaten(at(19), at(21), TERM, &beaten(1, 7)), Turn::Same);
        assert_eq!((lease.until(), lease.lag()), (Some(at(19) + USABLE), 0));
    }

    #[test]
    fn who_leaves_holds_no_lease_whatever_is_answered() {
        let mut lease = held();
        lease.beaten(at(20), at(21), TERM, &beaten(1, 7));
        lease.leave();
        assert_eq!(lease.until(), None);
        lease.applied(7);
        lease.beaten(at(30), at(31), TERM, &beaten(1, 7));
        lease.beaten(at(30), at(31), TERM, &beaten(2, 7));
        assert_eq!(lease.until(), None);
    }

    #[test]
    fn an_epoch_is_heard_of_once() {
        let mut lease = held();
        assert_eq!(lease.first_heard(epoch(1), at(50)), at(11));
        assert_eq!(lease.first_heard(epoch(2), at(60)), at(60));
        assert_eq!(lease.first_heard(epoch(2), at(70)), at(60));
        lease.beaten(at(79), at(80), TERM, &beaten(2, 0));
        assert_eq!(lease.since(), Some(at(60)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut lease = held();
        for n in 0..1000 {
            lease.beaten(at(20), at(21), TERM, &beaten(1, 6 + n));
        }
        assert_eq!(lease.history.as_ref().unwrap().offers.len(), MOST_OFFERS);
        for n in 0..=255 {
            let sent = at(20 + 2 * u64::from(n));
            lease.beaten(sent, sent + at(1), TERM, &beaten(n, 6));
        }
        assert_eq!(lease.left.len(), MOST_LEFT);
    }
}
