//! Connections to one Redis: made when they are needed, replaced when they are broken, and never
//! waited for without a bound.
//!
//! There are two *lanes* for each tokio runtime: reads do not queue behind writes. A connection's
//! driver is a task of the runtime that made it, so a lane belongs to a runtime; keyclasp serves
//! from one runtime per core, and none of them waits for another's.
//!
//! While Redis is out of reach, one caller at a time tries to connect, at most every
//! [`LONGEST_BACKOFF`]; the others are told at once what came of the last try.
//!
//! A server that is frozen, or cut off without a word, keeps its connections open. So a connection
//! on which nothing was answered for [`SILENCE`] while somebody waited is left behind, however
//! little patience each of the callers had.
//!
//! Nothing here knows what a call means. No call is sent twice but a script that did not run.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, PushInfo, Value};
use tokio::runtime::{Handle, Id};

use super::config::RedisConfig;
use super::failure::Failure;
use super::script::Call;
use crate::clock::Clock;

/// Longest pause between two tries to connect.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// Pause after the first failed try; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(25);
/// How long a connection may leave everybody without an answer.
const SILENCE: Duration = Duration::from_secs(1);
/// Commands that wait for the driver of one connection before callers wait themselves.
const PIPELINE: usize = 256;

/// Which of a runtime's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// For what only reads.
    Read,
    /// For what writes.
    Write,
}

/// When a verb must have answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    ends: Duration,
}

/// The connections to one Redis.
pub(super) struct Link {
    client: Client,
    connect_timeout: Duration,
    call_timeout: Duration,
    clock: Arc<dyn Clock>,
    lanes: Mutex<HashMap<Id, Arc<Lanes>>>,
}

impl Link {
    /// For the Redis of `config`. Connects to nothing yet.
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let client = Client::open(config.url.connection()).map_err(|error| Failure::of(&error))?;
        let RedisConfig { connect_timeout, call_timeout, .. } = *config;
        Ok(Self { client, connect_timeout, call_timeout, clock, lanes: Mutex::default() })
    }

    /// The time that a verb which begins now has.
    pub(super) fn budget(&self) -> Budget {
        Budget { ends: self.clock.elapsed() + self.call_timeout }
    }

    /// Runs a script.
    pub(super) async fn run(&self, lane: Lane, call: &Call<'_>, budget: Budget) -> Result<Value, Failure> {
        match self.send(lane, &call.by_digest(), budget).await {
            Err(Failure::NoScript) => self.send(lane, &call.by_text(), budget).await,
            other => other,
        }
    }

    /// Sends one command.
    pub(super) async fn send(&self, lane: Lane, command: &Cmd, budget: Budget) -> Result<Value, Failure> {
        let lanes = self.lanes();
        let slot = lanes.slot(lane);
        let mut open = match slot.open(self.clock.elapsed()) {
            Some(open) => open,
            None => self.bounded(budget, self.acquire(slot)).await?,
        };
        open.life.asked(self.clock.elapsed());
        let answer = self.bounded(budget, async {
            command.query_async::<Value>(&mut open.connection).await.map_err(|error| Failure::of(&error))
        });
        let answer = answer.await;
        match &answer {
            Err(failure) if failure.is_of_the_connection() => open.life.end(),
            _ => open.life.answered(),
        }
        answer
    }

    async fn bounded<T>(&self, budget: Budget, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let left = budget.ends.saturating_sub(self.clock.elapsed());
        tokio::time::timeout(left, work).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// The lanes of the runtime that asks.
    fn lanes(&self) -> Arc<Lanes> {
        let runtime = Handle::current().id();
        let mut lanes = lock(&self.lanes);
        if let Some(found) = lanes.get(&runtime) {
            return Arc::clone(found);
        }
        // A new runtime; some may have ended, and their drivers with them.
        let now = self.clock.elapsed();
        lanes.retain(|_, lanes| lanes.read.open(now).is_some() || lanes.write.open(now).is_some());
        Arc::clone(lanes.entry(runtime).or_default())
    }

    /// The slot's connection, made anew.
    async fn acquire(&self, slot: &Slot) -> Result<Open, Failure> {
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
        let made = tokio::time::timeout(self.connect_timeout, self.connect()).await;
        match made.unwrap_or(Err(Failure::TimedOut)) {
            Ok(open) => {
                *lock(&slot.state) = State::Open(open.clone());
                Ok(open)
            }
            Err(failure) => {
                let pause = failed.map_or(FIRST_BACKOFF, |failed| (failed.pause * 2).min(LONGEST_BACKOFF));
                let not_before = self.clock.elapsed() + pause;
                *lock(&slot.state) = State::Failed(Failed { failure: failure.clone(), pause, not_before });
                Err(failure)
            }
        }
    }

    async fn connect(&self) -> Result<Open, Failure> {
        let life = Arc::new(Life::default());
        // The driver owns the closure and drops it when it ends, for whatever reason: the server
        // closed, the stream broke, the runtime went away.
        let until_dropped = UntilDropped(Arc::clone(&life));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE)
            .set_push_sender(move |_: PushInfo| {
                let _ = &until_dropped;
                Ok::<_, redis::aio::SendError>(())
            });
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        Ok(Open { connection: connection.map_err(|error| Failure::of(&error))?, life })
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
}

impl Lanes {
    const fn slot(&self, lane: Lane) -> &Slot {
        match lane {
            Lane::Read => &self.read,
            Lane::Write => &self.write,
        }
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
    fn open(&self, now: Duration) -> Option<Open> {
        match &*lock(&self.state) {
            State::Open(open) if open.life.is_good(now) => Some(open.clone()),
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
    Open(Open),
    Failed(Failed),
}

#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    life: Arc<Life>,
}

/// What is known of a connection from how it answers.
#[derive(Default)]
struct Life {
    /// Whether the driver ended, or a call found the connection broken.
    ended: AtomicBool,
    /// When the first question since the last answer was asked, in milliseconds and one; 0: none was.
    asked: AtomicU64,
}

impl Life {
    fn asked(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let _ = self.asked.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    fn answered(&self) {
        self.asked.store(0, Ordering::Release);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn is_good(&self, now: Duration) -> bool {
        let asked = self.asked.load(Ordering::Acquire);
        let silent = asked != 0 && now > Duration::from_millis(asked) + SILENCE;
        !silent && !self.ended.load(Ordering::Acquire)
    }
}

/// The last try to connect.
#[derive(Clone)]
struct Failed {
    failure: Failure,
    pause: Duration,
    not_before: Duration,
}

struct UntilDropped(Arc<Life>);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
