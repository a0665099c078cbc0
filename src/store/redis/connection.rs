//! Connections to one Redis: made when they are needed, replaced when they are broken, and never
//! waited for without a bound.
//!
//! There are several *lanes* for each tokio runtime, so that nothing queues behind what takes longer:
//! reads not behind writes, and nothing behind a WAIT or a blocking read, which hold up all that comes
//! after them on their connection. A connection's driver (see `pipeline`) is a task of the runtime that
//! made it, so a lane belongs to a runtime; keyclasp serves from one runtime per core, and none of them
//! waits for another's.
//!
//! While Redis is out of reach, one caller at a time tries to connect, at most every
//! [`LONGEST_BACKOFF`]; the others are told at once what came of the last try.
//!
//! A server that is frozen, or cut off without a word, keeps its connections open. So a connection
//! on which nothing was answered for a while, though somebody waited, is left behind, however little
//! patience each of the callers had.
//!
//! Nothing here knows what a call means. No call is sent twice but a script that did not run.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, ConnectionInfo, Value};
use tokio::runtime::{Handle, Id};

use super::config::RedisConfig;
use super::dial;
use super::failure::Failure;
use super::pipeline::{Connection, Span};
use super::resp::write_command;
use super::script::Call;
use crate::clock::Clock;

/// Longest pause between two tries to connect.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// Pause after the first failed try; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(25);
/// Connections over which a runtime's commits are spread when they are followed by a WAIT.
const CONFIRMING: usize = 4;
/// Longest WAIT: well below the time after which a connection that says nothing is taken for dead.
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(700);
/// What of a verb's time is left for the way back.
const WAY_BACK: Duration = Duration::from_millis(50);

/// Which of a runtime's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// For what only reads.
    Read,
    /// For what writes and is not confirmed.
    Write,
    /// For commits that replicas have to confirm: several connections in turn.
    Confirm,
    /// For signs of life.
    Beat,
    /// For acknowledgements and what else concerns the rows of members.
    Ack,
    /// For blocking reads.
    Wake,
}

/// When a verb must have answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    ends: Duration,
}

/// The connections to one Redis.
pub(super) struct Link {
    server: ConnectionInfo,
    connect_timeout: Duration,
    call_timeout: Duration,
    clock: Arc<dyn Clock>,
    /// Few, so that looking through them is the quickest.
    lanes: Mutex<Vec<(Id, Arc<Lanes>)>>,
}

impl Link {
    /// For the Redis of `config`. Connects to nothing yet.
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let RedisConfig { connect_timeout, call_timeout, .. } = *config;
        let server = config.url.connection();
        dial::check(server.addr())?;
        Ok(Self { server, connect_timeout, call_timeout, clock, lanes: Mutex::default() })
    }

    /// The time that has passed.
    pub(super) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The time that a verb which begins now has.
    pub(super) fn budget(&self) -> Budget {
        Budget { ends: self.clock.elapsed() + self.call_timeout }
    }

    /// Runs a script.
    pub(super) async fn run(&self, lane: Lane, call: &Call<'_>, budget: Budget) -> Result<Value, Failure> {
        match self.call(lane, &call.by_digest(), budget).await {
            Err(Failure::NoScript) => self.call(lane, &call.by_text(), budget).await,
            other => other,
        }
    }

    /// Sends one command.
    pub(super) async fn send(&self, lane: Lane, command: &Cmd, budget: Budget) -> Result<Value, Failure> {
        self.call(lane, &command.get_packed_command(), budget).await
    }

    /// Runs a script and has so many replicas confirm what it wrote: the second answer is how many did.
    pub(super) async fn run_confirmed(
        &self,
        lane: Lane,
        call: &Call<'_>,
        replicas: u32,
        budget: Budget,
    ) -> Result<(Value, Result<Value, Failure>), Failure> {
        match self.pair(lane, call.by_digest(), replicas, budget).await {
            // The WAIT that went with it is no answer to what runs now.
            Err(Failure::NoScript) => self.pair(lane, call.by_text(), replicas, budget).await,
            other => other,
        }
    }

    /// Sends a command and, right behind it on the same connection, a WAIT.
    async fn pair(
        &self,
        lane: Lane,
        mut commands: Vec<u8>,
        replicas: u32,
        budget: Budget,
    ) -> Result<(Value, Result<Value, Failure>), Failure> {
        let (connection, span) = self.open(lane, budget).await?;
        let limit = span.ends.saturating_sub(span.now + WAY_BACK).min(LONGEST_WAIT);
        // WAIT 0 would wait for ever.
        let (replicas, limit) = (replicas.to_string(), limit.as_millis().max(1).to_string());
        write_command(&mut commands, [b"WAIT", replicas.as_bytes(), limit.as_bytes()].into_iter());
        connection.call_pair(&commands, span).await
    }

    /// Sends one command in the form in which it goes over the wire.
    async fn call(&self, lane: Lane, command: &[u8], budget: Budget) -> Result<Value, Failure> {
        let (connection, span) = self.open(lane, budget).await?;
        connection.call(command, span).await
    }

    /// A connection of a lane, and the time that a call on it has.
    async fn open(&self, lane: Lane, budget: Budget) -> Result<(Connection, Span), Failure> {
        let lanes = self.lanes();
        let slot = lanes.slot(lane);
        let now = self.clock.elapsed();
        if let Some(connection) = slot.open(now) {
            return Ok((connection, Span { now, ends: budget.ends }));
        }
        let connection = self.bounded(budget, self.acquire(slot)).await?;
        Ok((connection, Span { now: self.clock.elapsed(), ends: budget.ends }))
    }

    async fn bounded<T>(&self, budget: Budget, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let left = budget.ends.saturating_sub(self.clock.elapsed());
        tokio::time::timeout(left, work).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// The lanes of the runtime that asks.
    fn lanes(&self) -> Arc<Lanes> {
        let runtime = Handle::current().id();
        let mut lanes = lock(&self.lanes);
        if let Some((_, found)) = lanes.iter().find(|(id, _)| *id == runtime) {
            return Arc::clone(found);
        }
        // A new runtime; some may have ended, and their drivers with them.
        let now = self.clock.elapsed();
        lanes.retain(|(_, lanes)| lanes.is_used(now));
        let made = Arc::new(Lanes::default());
        lanes.push((runtime, Arc::clone(&made)));
        made
    }

    /// The slot's connection, made anew.
    async fn acquire(&self, slot: &Slot) -> Result<Connection, Failure> {
        let _turn = match slot.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => match slot.failed() {
                Some(failed) => return Err(failed.failure),
                None => slot.turn.lock().await,
            },
        };
        // Whoever had the turn before may have left something.
        if let Some(open) = slot.open(self.clock.elapsed()) {
            return Ok(open);
        }
        let failed = slot.failed();
        if let Some(failed) = &failed
            && self.clock.elapsed() < failed.not_before
        {
            return Err(failed.failure.clone());
        }
        let span = dial::within(&*self.clock, self.connect_timeout);
        let made = tokio::time::timeout(self.connect_timeout, dial::dial(&self.server, &self.clock, span)).await;
        match made.unwrap_or(Err(Failure::TimedOut)) {
            Ok(connection) => {
                *lock(&slot.state) = State::Open(connection.clone());
                Ok(connection)
            }
            Err(failure) => {
                let pause = failed.map_or(FIRST_BACKOFF, |failed| (failed.pause * 2).min(LONGEST_BACKOFF));
                let not_before = self.clock.elapsed() + pause;
                *lock(&slot.state) = State::Failed(Failed { failure: failure.clone(), pause, not_before });
                Err(failure)
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// The connections of one runtime.
#[derive(Default)]
struct Lanes {
    read: Slot,
    write: Slot,
    confirm: [Slot; CONFIRMING],
    /// Whose turn it is among these.
    next: AtomicUsize,
    beat: Slot,
    ack: Slot,
    wake: Slot,
}

impl Lanes {
    fn slot(&self, lane: Lane) -> &Slot {
        match lane {
            Lane::Read => &self.read,
            Lane::Write => &self.write,
            Lane::Confirm => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONFIRMING;
                self.confirm.get(turn).unwrap_or(&self.write)
            }
            Lane::Beat => &self.beat,
            Lane::Ack => &self.ack,
            Lane::Wake => &self.wake,
        }
    }

    /// Whether one of them has a connection that lives.
    fn is_used(&self, now: Duration) -> bool {
        let alone = [&self.read, &self.write, &self.beat, &self.ack, &self.wake];
        alone.into_iter().chain(&self.confirm).any(|slot| slot.open(now).is_some())
    }
}

/// The place of one connection.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// Held by the one who connects.
    turn: tokio::sync::Mutex<()>,
}

impl Slot {
    fn open(&self, now: Duration) -> Option<Connection> {
        match &*lock(&self.state) {
            State::Open(connection) if connection.is_good(now) => Some(connection.clone()),
            _ => None,
        }
    }

    fn failed(&self) -> Option<Failed> {
        match &*lock(&self.state) {
            State::Failed(failed) => Some(failed.clone()),
            _ => None,
        }
    }
}

#[derive(Default)]
enum State {
    /// Nobody has asked yet.
    #[default]
    Idle,
    Open(Connection),
    Failed(Failed),
}

/// The last try to connect.
#[derive(Clone)]
struct Failed {
    failure: Failure,
    pause: Duration,
    not_before: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
