//! Keeping the leases: beats, the log, and the rows of those who fell silent. Rules 6, 7, 8 and 10 of
//! docs/CONSISTENCY.md.
//!
//! One task per shard beats five times in a lease's term and applies the log; one for all of them waits for
//! the log to grow. What that one says only wakes: what counts is what a beat or a page of the log says,
//! which names its epoch.

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
/// Pause after a beat that failed.
const RETRY: Duration = Duration::from_millis(50);
/// Entries of the log that are read at once.
const PAGE: usize = 1_000;
/// Pages that are applied before they are acknowledged.
const PAGES: usize = 16;
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
            Follower { fence: self, leased, leases, number, shard, beats: 0, silent: HashMap::new(), held: false }.run()
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
}

impl<'a, V: Hold> Follower<'a, V> {
    async fn run(mut self) {
        let (leased, shard) = (self.leased, self.shard);
        let mut under_way: Option<(Sent, Beating<'a>)> = None;
        let mut due = Duration::ZERO;
        loop {
            let pause = due.saturating_sub(leased.clock.elapsed());
            tokio::select! {
                biased;
                () = leased.leaving.cancelled() => break,
                (sent, answer) = answered(&mut under_way) => {
                    under_way = None;
                    due = self.beaten(sent, answer).await;
                }
                () = tokio::time::sleep(pause), if under_way.is_none() => {
                    let sent = Sent { at: leased.clock.elapsed(), term: self.leases.term() };
                    under_way = Some((sent, self.beat(sent.term)));
                }
                () = shard.beat.notified(), if under_way.is_none() => due = due.min(self.soonest()),
                () = shard.log.notified() => self.catch_up().await,
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
        self.leased.clock.elapsed().saturating_add(LEAST_PAUSE)
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
                self.tell(now, Some(&error));
                return now.saturating_add(RETRY);
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
                let error = StoreError::Unavailable(
                    "it is back in a history that was left: two servers answer at store.url in turn, and one of them lacks what the other was told; restart keyclasp once only one is left".to_owned(),
                );
                self.tell(now, Some(&error));
                return now.saturating_add(RETRY);
            }
        }
        if self.shard.standing(now).lag > 0 {
            self.catch_up().await;
        }
        self.tell(self.leased.clock.elapsed(), None);
        self.sweep(now, term, &answer).await;
        if !answer.settled
            && let Some((epoch, since)) = self.shard.epoch()
            && now >= since.saturating_add(over(term))
            && let Err(error) = self.within(self.leases.settle(self.number, epoch)).await
        {
            tracing::debug!(%error, shard = self.number, "an epoch was not marked as settled");
        }
        at.saturating_add(term / BEATS)
    }

    /// What is done between two beats must not cost the lease.
    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = || StoreError::Unavailable("it was not answered within a quarter of the term of a lease".to_owned());
        tokio::time::timeout(self.leases.term() / 4, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// Reads the log, and drops what it names.
    async fn catch_up(&mut self) {
        let mut moved = false;
        for _ in 0..PAGES {
            let Some((cursor, _)) = self.shard.cursor() else { return };
            let page = match self.within(self.fence.store.log(self.number, Some(cursor), PAGE)).await {
                Ok(page) => page,
                Err(error) => {
                    // The next beat tells that there is more to read.
                    tracing::debug!(%error, shard = self.number, "the log was not read");
                    self.shard.beat.notify_one();
                    break;
                }
            };
            let now = self.leased.clock.elapsed();
            match self.shard.read(now, &page, || self.leased.cache.renew(self.number)) {
                Turn::Same => {}
                Turn::Anew => {
                    tracing::info!(shard = self.number, epoch = %page.epoch, "entries of the log were missed: what was in memory is dropped");
                    self.shard.beat.notify_one();
                    moved = true;
                    break;
                }
                Turn::Stale => return,
            }
            for entry in &page.entries {
                self.leased.cache.invalidate(&entry.id);
            }
            // Only now: an entry counts as applied when nothing old is left.
            let Some(last) = page.entries.last() else { break };
            self.shard.applied(last.position);
            moved = true;
            if last.position >= page.tail {
                break;
            }
        }
        if moved {
            self.acknowledge().await;
        }
        if self.shard.standing(self.leased.clock.elapsed()).lag > 0 && moved {
            self.shard.log.notify_one();
        }
    }

    /// Tells those who wait how far this process is.
    async fn acknowledge(&mut self) {
        let beat = self.next(false);
        if let Err(error) = self.within(self.leases.beat(self.number, &beat)).await {
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
            match self.within(self.leases.remove(self.number, answer.epoch, &member)).await {
                Ok(true) => {
                    tracing::warn!(member = %member.id, shard = self.number, "a replica has been silent since its lease ended")
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, shard = self.number, "a silent row was not deleted"),
            }
        }
    }

    /// Says that the lease was lost or obtained, once.
    fn tell(&mut self, now: Duration, error: Option<&StoreError>) {
        if let Some(error) = error {
            self.shard.failed(error);
        }
        let held = self.shard.is_held(now);
        if held == self.held {
            return;
        }
        self.held = held;
        if held {
            tracing::info!(shard = self.number, "a lease is held: keys are validated from memory");
        } else {
            let error = error.map_or_else(String::new, ToString::to_string);
            tracing::warn!(
                shard = self.number,
                error,
                "the lease has ended: keys are not validated until the store confirms another"
            );
        }
    }
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
