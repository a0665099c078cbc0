//! Keeping the leases: beats, the log, and the rows of those who fell silent. Rules 6, 7, 8 and 10 of
//! docs/CONSISTENCY.md.
//!
//! In one task, all of it: each shard beats five times in a lease's term and applies its log, and besides one wait
//! for all of them tells when a log grows. What that one says only wakes: what counts is what a beat or a page
//! of the log says, which names its epoch.
//!
//! What is done between two beats of a shard has a part of the term for all of it together, so that it does not
//! cost the lease; and after a failure of whatever kind nothing is tried again without a pause.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join_all;

use super::lease::Turn;
use super::shard::Shard;
use super::{Fence, Hold, Leased, Mode};
use crate::store::{Beat, Beaten, LONGEST_WAKE, Leases, Member, MemberId, StoreError, over};

/// Beats within the term of a lease.
const BEATS: u32 = 5;
/// Least pause between two beats, whatever happens.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// Pause after something that failed, whoever asks for more.
const RETRY: Duration = Duration::from_millis(50);
/// Entries of the log that are read at once.
const PAGE: usize = 1_000;
/// Pages that are applied before a beat is looked after again.
const PAGES: usize = 16;
/// What is done between two beats has so small a part of the term.
const ROUND: u32 = 4;
/// Telling how far the log was applied has so small a part of it at least.
const TELLING: u32 = 20;
/// Longest wait for a beat under way when the process leaves.
const LEAVING: Duration = Duration::from_secs(1);

impl<V: Hold> Fence<V> {
    /// Keeps the leases until [`Self::leave`], then gives them back. Where there are none, does nothing until
    /// then.
    pub async fn follow(&self) {
        let (Mode::Leased(leased), Some(leases)) = (&self.mode, self.store.leases()) else {
            return std::future::pending().await;
        };
        let followers = leased.shards.iter().enumerate().map(|(number, shard)| {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let follower = Follower {
                fence: self,
                leased,
                leases,
                number,
                shard,
                beats: 0,
                silent: HashMap::new(),
                held: false,
                no_beat_before: Duration::ZERO,
                no_page_before: Duration::ZERO,
                round_ends: Duration::ZERO,
            };
            follower.run()
        });
        tokio::select! {
            // Ends when all have given back what they had.
            _ = join_all(followers) => {}
            () = wake(leased, leases) => {}
        }
    }

    /// Drops all leases, and has [`Self::follow`] give them back. To be called after the last answer: from now
    /// on there is none.
    pub fn leave(&self) {
        if let Mode::Leased(leased) = &self.mode {
            for (number, shard) in (0..).zip(&leased.shards) {
                shard.leave(|| leased.cache.renew(number));
            }
            leased.leaving.cancel();
        }
    }

    /// Has every shard beat at once: the store may have become another one.
    pub fn beat_now(&self) {
        if let Mode::Leased(leased) = &self.mode {
            leased.shards.iter().for_each(|shard| shard.beat.notify_one());
        }
    }
}

/// When a beat was sent, and for a lease of which term.
#[derive(Clone, Copy)]
struct Sent {
    at: Duration,
    term: Duration,
}

type Beating<'a> = Pin<Box<dyn Future<Output = Result<Beaten, StoreError>> + Send + 'a>>;

/// Looks after one shard.
struct Follower<'a, V> {
    fence: &'a Fence<V>,
    leased: &'a Leased<V>,
    leases: &'a dyn Leases,
    number: u16,
    shard: &'a Shard,
    /// Beats so far, each with a number of its own.
    beats: u64,
    /// The others: their last beat that was seen, and when it was first seen.
    silent: HashMap<MemberId, (u64, Duration)>,
    /// Whether the lease was held when that was last said.
    held: bool,
    /// Until then, nobody has a beat sent sooner than it is due: the last one was of no use.
    no_beat_before: Duration,
    /// Until then, the log is not read: it could not be.
    no_page_before: Duration,
    /// When what is done between two beats has to be done.
    round_ends: Duration,
}

impl<'a, V: Hold> Follower<'a, V> {
    async fn run(mut self) {
        let (leased, shard) = (self.leased, self.shard);
        let mut under_way: Option<(Sent, Beating<'a>)> = None;
        let mut due = Duration::ZERO;
        loop {
            // Before anything else: a log that grows all the time must not be in its way.
            if under_way.is_none() && leased.clock.elapsed() >= due {
                let sent = Sent { at: leased.clock.elapsed(), term: self.leases.term() };
                under_way = Some((sent, self.beat(sent.term)));
            }
            let pause = due.saturating_sub(leased.clock.elapsed());
            tokio::select! {
                biased;
                () = leased.leaving.cancelled() => break,
                (sent, answer) = answered(&mut under_way) => {
                    under_way = None;
                    self.begin_round();
                    due = self.beaten(sent, answer).await;
                }
                () = tokio::time::sleep(pause), if under_way.is_none() => due = Duration::ZERO,
                () = shard.beat.notified(), if under_way.is_none() => due = due.min(self.soonest()),
                () = shard.log.notified() => {
                    self.begin_round();
                    self.catch_up().await;
                }
            }
        }
        // A beat that is still under way could write the row again after it was deleted.
        if let Some((_, beating)) = under_way {
            let _ = tokio::time::timeout(LEAVING, beating).await;
        }
        if let Err(error) = self.leases.release(self.number, leased.member).await {
            tracing::warn!(%error, shard = self.number, "a lease was not given back: the next revocation waits for its end");
        }
    }

    fn soonest(&self) -> Duration {
        self.leased.clock.elapsed().saturating_add(LEAST_PAUSE).max(self.no_beat_before)
    }

    /// A beat came to nothing. Answers when the next one is due.
    fn failed(&mut self, now: Duration, error: &StoreError) -> Duration {
        self.shard.failed(error);
        self.tell(now);
        self.no_beat_before = now.saturating_add(RETRY);
        self.no_beat_before
    }

    /// A beat that can grant a lease. One that takes longer than the term could not any more.
    fn beat(&mut self, term: Duration) -> Beating<'a> {
        let (leases, number, beat) = (self.leases, self.number, self.next(true));
        Box::pin(async move {
            let late = || StoreError::Unavailable("a beat was not answered within the term of a lease".to_owned());
            tokio::time::timeout(term, leases.beat(number, &beat)).await.unwrap_or_else(|_| Err(late()))
        })
    }

    fn next(&mut self, confirmed: bool) -> Beat {
        self.beats += 1;
        let applied = self.shard.cursor().map(|(cursor, _)| cursor);
        Beat { member: self.leased.member, number: self.beats, applied, confirmed }
    }

    /// A beat has come to something. Answers when the next one is due.
    async fn beaten(&mut self, sent: Sent, answer: Result<Beaten, StoreError>) -> Duration {
        let now = self.leased.clock.elapsed();
        let Sent { at, term } = sent;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, shard = self.number, "a beat failed");
                return self.failed(now, &error);
            }
        };
        let renew = || self.leased.cache.renew(self.number);
        let turn = self.shard.beaten(at, now, term, &answer, renew);
        match turn {
            Turn::Same => {}
            Turn::Anew => {
                self.silent.clear();
                tracing::info!(shard = self.number, epoch = %answer.epoch, "a history of the store begins");
                // The row does not say yet how far this process is in it.
                self.acknowledge().await;
            }
            Turn::Stale => {
                let text = "the store is back in a history that was left: two servers answer at store.url in turn, and \
                            one of them lacks what the other was told";
                return self.failed(now, &StoreError::Refused(text.to_owned()));
            }
        }
        if self.shard.standing(now).lag > 0 {
            self.catch_up().await;
        }
        let later = self.leased.clock.elapsed();
        self.tell(later);
        if !self.shard.is_held(later) {
            self.no_beat_before = later.saturating_add(RETRY);
        }
        self.sweep(now, term, &answer).await;
        if !answer.settled
            && !self.left().is_zero()
            && let Some((epoch, since)) = self.shard.epoch()
            && now >= since.saturating_add(over(term))
            && let Err(error) = within(self.left(), self.leases.settle(self.number, epoch)).await
        {
            tracing::debug!(%error, shard = self.number, "an epoch was not marked as settled");
        }
        at.saturating_add(term / BEATS)
    }

    fn begin_round(&mut self) {
        self.round_ends = self.leased.clock.elapsed().saturating_add(self.leases.term() / ROUND);
    }

    /// How long what is done between two beats may still take.
    fn left(&self) -> Duration {
        self.round_ends.saturating_sub(self.leased.clock.elapsed())
    }

    /// Reads the log, and drops what it names.
    async fn catch_up(&mut self) {
        if self.leased.clock.elapsed() < self.no_page_before {
            // The beat that comes then tells that there is more to read.
            self.shard.beat.notify_one();
            return;
        }
        let half = self.leases.term() / ROUND / 2;
        for page in 0..PAGES {
            // One that could not come to its end would be read for nothing.
            let left = self.left();
            if left.is_zero() || (page > 0 && left < half) {
                break;
            }
            let Some((cursor, _)) = self.shard.cursor() else { return };
            let page = match within(left, self.fence.store.log(self.number, Some(cursor), PAGE)).await {
                Ok(page) => page,
                Err(error) => return self.unread(&error),
            };
            let now = self.leased.clock.elapsed();
            match self.shard.read(now, &page, || self.leased.cache.renew(self.number)) {
                Turn::Same => {}
                Turn::Anew => {
                    let why = if page.epoch == cursor.epoch {
                        "entries of its log were missed"
                    } else {
                        "a history of the store begins"
                    };
                    tracing::info!(shard = self.number, epoch = %page.epoch, why, "what was in memory is dropped");
                    self.shard.beat.notify_one();
                    return self.acknowledge().await;
                }
                Turn::Stale => return,
            }
            for entry in &page.entries {
                self.leased.cache.invalidate(&entry.id);
            }
            // Only now: an entry counts as applied when nothing old is left.
            let Some(last) = page.entries.last() else { return };
            self.shard.applied(last.position);
            // Not at the end alone: somebody waits for it.
            self.acknowledge().await;
            if last.position >= page.tail {
                break;
            }
        }
        if self.shard.standing(self.leased.clock.elapsed()).lag > 0 {
            self.shard.log.notify_one();
        }
    }

    /// The log could not be read.
    fn unread(&mut self, error: &StoreError) {
        tracing::debug!(%error, shard = self.number, "the log was not read");
        self.shard.unread(error);
        self.no_page_before = self.leased.clock.elapsed().saturating_add(RETRY);
        self.no_beat_before = self.no_page_before;
        // It tells that there is more to read.
        self.shard.beat.notify_one();
    }

    /// Tells those who wait how far this process is.
    async fn acknowledge(&mut self) {
        let beat = self.next(false);
        let limit = self.left().max(self.leases.term() / TELLING);
        if let Err(error) = within(limit, self.leases.beat(self.number, &beat)).await {
            // The next beat says it as well.
            tracing::debug!(%error, shard = self.number, "an acknowledgement failed");
        }
    }

    /// Deletes rows that have not changed for longer than a lease lasts, by this process's own clock.
    async fn sweep(&mut self, now: Duration, term: Duration, answer: &Beaten) {
        let leased = self.leased;
        let others = || answer.members.iter().filter(|member| member.id != leased.member);
        self.silent.retain(|id, _| others().any(|member| member.id == *id));
        let mut over_long: Vec<Member> = Vec::new();
        for member in others() {
            let seen = self.silent.entry(member.id).or_insert((member.beat, now));
            if seen.0 != member.beat {
                *seen = (member.beat, now);
            } else if now >= seen.1.saturating_add(over(term)) {
                over_long.push(*member);
            }
        }
        for member in over_long {
            let left = self.left();
            if left.is_zero() {
                // The next beat tells of the others again.
                return;
            }
            match within(left, self.leases.remove(self.number, answer.epoch, &member)).await {
                Ok(true) => {
                    tracing::warn!(member = %member.id, shard = self.number, "a replica has been silent since its lease ended")
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, shard = self.number, "a silent row was not deleted"),
            }
        }
    }

    /// Says that the lease was lost or obtained, once.
    fn tell(&mut self, now: Duration) {
        let held = self.shard.is_held(now);
        if held == self.held {
            return;
        }
        self.held = held;
        if held {
            tracing::info!(shard = self.number, "a lease is held: keys are validated from memory");
        } else {
            let error = self.shard.standing(now).trouble.map_or_else(String::new, |error| error.to_string());
            tracing::warn!(
                shard = self.number,
                error,
                "the lease has ended: keys are not validated until the store confirms another"
            );
        }
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = || {
        StoreError::Unavailable(format!(
            "it did not answer within {limit:?}, which is as long as it may take between two beats"
        ))
    };
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

/// The answer to the beat that is under way, with when it was sent.
async fn answered(under_way: &mut Option<(Sent, Beating<'_>)>) -> (Sent, Result<Beaten, StoreError>) {
    match under_way {
        Some((sent, beating)) => (*sent, beating.await),
        None => std::future::pending().await,
    }
}

/// Wakes the followers of those shards whose log grows. What is missed here, the next beat tells.
async fn wake<V>(leased: &Leased<V>, leases: &dyn Leases) {
    // The turn of each shard, and the last position that was told of in it.
    let mut told: HashMap<u16, (u64, u64)> = HashMap::new();
    loop {
        let cursors = (0..).zip(&leased.shards).filter_map(|(number, shard)| {
            let (cursor, turn) = shard.cursor()?;
            let last = told.get(&number).filter(|(of, _)| *of == turn).map_or(0, |(_, last)| *last);
            Some((number, turn, cursor.position.max(last)))
        });
        let cursors: Vec<(u16, u64, u64)> = cursors.collect();
        let after: Vec<(u16, u64)> = cursors.iter().map(|(number, _, position)| (*number, *position)).collect();
        let woken = if after.is_empty() { Ok(Vec::new()) } else { leases.wake(&after, LONGEST_WAKE).await };
        match woken {
            Ok(woken) => {
                for (number, last) in woken {
                    if let Some((_, turn, _)) = cursors.iter().find(|(of, ..)| *of == number) {
                        told.insert(number, (*turn, last));
                    }
                    if let Some(shard) = leased.shard(number) {
                        shard.log.notify_one();
                    }
                }
                if after.is_empty() {
                    tokio::time::sleep(RETRY).await;
                }
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests;
