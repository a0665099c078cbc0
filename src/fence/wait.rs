//! Waiting until a change that takes something away is known to every process that may answer from memory:
//! rules 4, 5 and 10 of docs/CONSISTENCY.md.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;

use super::metrics::Came;
use super::{Fence, Hold, Leased, Mode};
use crate::clock::Throttle;
use crate::store::{Beaten, Done, Epoch, Leases, Member, StoreError, over};

/// Looks at the members without a pause between them: the others mostly need less than a millisecond, which is the
/// least that a timer of tokio takes, and one look serves all who wait.
const EAGER: u32 = 3;
/// Pauses between the others: this part of what was waited so far, so that nobody waits for much longer than for
/// the last one to acknowledge, and who is waited for until its lease ends is not looked at all the time.
const PAUSE: u32 = 4;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);
/// Longest that the rows of the silent are seen to, once nobody has to be waited for any more.
const LONGEST_REMOVAL: Duration = Duration::from_millis(250);
/// How much sooner than the caller's time is up the wait ends, so that the answer still arrives.
const WAY_BACK: Duration = Duration::from_millis(10);

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// Members that said that they had applied the change, this process among them.
    pub acknowledged: u32,
    /// Members whose lease had to end first, or that have left.
    pub lapsed: u32,
    /// How long that took.
    pub duration: Duration,
}

/// Why nobody can say that every process knows of the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfenced {
    /// The caller's time was up. Every lease that could be in the way has ended after `left` more.
    TimeUp {
        /// So long.
        left: Duration,
    },
    /// Another history of the shard has begun: whether the change is in it is not known.
    Unknown(StoreError),
}

impl<V: Hold> Fence<V> {
    /// Waits until every process has dropped what the commit `done` of `shard` has changed. This one must
    /// have dropped it before ([`Fence::forget`]). `ends`: when the caller's time is up, by the clock of this
    /// fence.
    ///
    /// # Errors
    /// When nobody can say that. The change is written all the same, and the caller must repeat it.
    pub async fn wait(&self, shard: u16, done: &Done, ends: Option<Duration>) -> Result<Waited, Unfenced> {
        let (Mode::Leased(leased), Some(leases)) = (&self.mode, self.store.leases()) else {
            return Ok(Waited::default());
        };
        let replied = leased.clock.elapsed();
        let waited = Waiting::new(leased, shard, done, replied, leases).until(ends).await;
        let took = leased.clock.elapsed().saturating_sub(replied);
        leased.waits.waited(
            match &waited {
                Ok(waited) if waited.lapsed > 0 => Came::Lapsed,
                Ok(_) => Came::Acknowledged,
                Err(Unfenced::TimeUp { .. }) => Came::TimeUp,
                Err(Unfenced::Unknown(_)) => Came::Unknown,
            },
            took,
        );
        match &waited {
            Ok(Waited { acknowledged, lapsed, .. }) => {
                tracing::info!(
                    shard,
                    position = done.at.position,
                    acknowledged,
                    lapsed,
                    ?took,
                    "no replica passes what this change took away"
                );
            }
            // Whoever gives a call no time can have as many of these as calls.
            Err(unfenced) => {
                static WARNINGS: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(10));
                let Some(left_out) = WARNINGS.admit() else { return waited };
                let why = match unfenced {
                    Unfenced::TimeUp { .. } => "the caller's time was up".to_owned(),
                    Unfenced::Unknown(error) => error.to_string(),
                };
                tracing::warn!(
                    shard,
                    position = done.at.position,
                    ?took,
                    why,
                    left_out,
                    "a change is stored, but some replica may not know of it yet"
                );
            }
        }
        waited.map(|waited| Waited { duration: took, ..waited })
    }

    /// Waits until every process has dropped what was changed in `shard` before this call, whoever changed
    /// it, and it is as durable as a commit is: for who finds done already what it was asked to do. Answers
    /// none if `epoch`, in which that was found, is not the present one any more.
    ///
    /// # Errors
    /// As [`Self::wait`], and when the store does not answer.
    pub async fn wait_for_earlier(
        &self,
        shard: u16,
        epoch: Epoch,
        ends: Option<Duration>,
    ) -> Result<Option<(Done, Waited)>, Unfenced> {
        let Some(leases) = self.store.leases() else { return Ok(None) };
        let done = leases.barrier(shard).await.map_err(Unfenced::Unknown)?;
        if done.at.epoch != epoch {
            return Ok(None);
        }
        let waited = self.wait(shard, &done, ends).await?;
        Ok(Some((done, waited)))
    }
}

/// What one change waits for.
struct Waiting<'a, V> {
    leased: &'a Leased<V>,
    leases: &'a dyn Leases,
    shard: u16,
    epoch: Epoch,
    position: u64,
    /// Members that may not know of the change, as the commit found them.
    pending: Vec<Member>,
    waited: Waited,
    /// Whether leases of an earlier epoch are over.
    settled: bool,
    /// When they are for certain.
    settled_at: Duration,
    /// When each lease that was granted before the commit was answered is over for certain.
    over_at: Duration,
}

impl<'a, V> Waiting<'a, V> {
    fn new(leased: &'a Leased<V>, shard: u16, done: &Done, replied: Duration, leases: &'a dyn Leases) -> Self {
        let over = over(leases.term());
        let first_heard = leased.shard(shard).map_or(replied, |shard| shard.first_heard(done.at.epoch, replied));
        let (known, pending): (Vec<Member>, Vec<Member>) =
            done.members.iter().partition(|member| member.id == leased.member || member.applied >= done.at.position);
        Self {
            leased,
            leases,
            shard,
            epoch: done.at.epoch,
            position: done.at.position,
            pending,
            waited: Waited { acknowledged: count(known.len()), ..Waited::default() },
            settled: done.settled,
            settled_at: first_heard.saturating_add(over),
            over_at: replied.saturating_add(over),
        }
    }

    async fn until(mut self, ends: Option<Duration>) -> Result<Waited, Unfenced> {
        let began = self.leased.clock.elapsed();
        let mut looked = began;
        let mut looks = 0;
        loop {
            let now = self.leased.clock.elapsed();
            self.settled |= now >= self.settled_at;
            if self.settled && self.pending.is_empty() {
                return Ok(self.waited);
            }
            if now >= self.over_at {
                return Ok(self.give_up_the_silent(ends).await);
            }
            let rest = self.over_at.saturating_sub(now);
            let pause = (now.saturating_sub(began) / PAUSE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            if let Some(ends) = ends
                && now.saturating_add(pause).saturating_add(WAY_BACK) >= ends
            {
                return Err(Unfenced::TimeUp { left: rest });
            }
            looks += 1;
            if looks > EAGER {
                tokio::time::sleep(pause.min(rest)).await;
            }
            // While the store does not answer, leases end all the same, and so does the caller's time.
            let bound = self.left(ends).min(self.over_at.saturating_sub(self.leased.clock.elapsed()));
            if let Ok(Ok(found)) = tokio::time::timeout(bound, self.look(&mut looked)).await {
                self.found(&found)?;
            }
        }
    }

    /// How long the caller still waits.
    fn left(&self, ends: Option<Duration>) -> Duration {
        let now = self.leased.clock.elapsed();
        ends.map_or(Duration::MAX, |ends| ends.saturating_sub(WAY_BACK).saturating_sub(now))
    }

    fn found(&mut self, found: &Beaten) -> Result<(), Unfenced> {
        if found.epoch != self.epoch {
            let text = "its history changed before every replica had confirmed the change; repeat it";
            return Err(Unfenced::Unknown(StoreError::Unavailable(text.to_owned())));
        }
        self.settled |= found.settled;
        let (mut acknowledged, mut gone) = (0, 0);
        self.pending.retain(|pending| match found.members.iter().find(|member| member.id == pending.id) {
            Some(row) if row.applied < self.position => true,
            Some(_) => {
                acknowledged += 1;
                false
            }
            // It has said goodbye, or was found to have been silent for long enough.
            None => {
                gone += 1;
                false
            }
        });
        self.waited.acknowledged += acknowledged;
        self.waited.lapsed += gone;
        Ok(())
    }

    /// The members as they are after the last look of this one: one look serves all who wait meanwhile.
    async fn look(&self, looked: &mut Duration) -> Result<Beaten, StoreError> {
        let Some(polls) = self.leased.polls.get(usize::from(self.shard)) else {
            return self.leases.members(self.shard).await;
        };
        let mut last = polls.0.lock().await;
        let now = self.leased.clock.elapsed();
        if let Some((at, found)) = &*last
            && *at > *looked
        {
            *looked = now;
            return Ok(found.clone());
        }
        let found = self.leases.members(self.shard).await?;
        *looked = self.leased.clock.elapsed();
        *last = Some((now, found.clone()));
        Ok(found)
    }

    /// The leases of those who are still pending are over. Their rows go, so that the next change does not
    /// wait for them: but for those that have beaten meanwhile.
    async fn give_up_the_silent(mut self, ends: Option<Duration>) -> Waited {
        self.waited.lapsed += count(self.pending.len());
        let bound = self.left(ends).min(LONGEST_REMOVAL);
        let removals = self.pending.iter().map(async |member| {
            // If that fails, the next one waits, or a beat sweeps it.
            if self.leases.remove(self.shard, self.epoch, member).await == Ok(true) {
                tracing::warn!(member = %member.id, shard = self.shard, "a replica was silent until its lease had ended");
            }
        });
        let _ = tokio::time::timeout(bound, join_all(removals)).await;
        self.waited
    }
}

fn count(members: usize) -> u32 {
    u32::try_from(members).unwrap_or(u32::MAX)
}

/// The last look at the members of a shard, and when it began.
#[derive(Debug, Default)]
pub(super) struct Polls(Mutex<Option<(Duration, Beaten)>>);
