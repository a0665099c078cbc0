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
//! A connection stays with the node that it reached, wherever the address leads later. So an answer from which
//! it is plain that this node is the wrong one has all connections left ([`Link::suspect`], `generation`): others
//! may lead to it as well, and nobody knows which. One that replicas do not confirm in time tells less, for a
//! replica may just be missing: only the connection that it came over is left, and not while it is young.
//!
//! Nothing here knows what a call means. No call is sent twice but a script that did not run.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Cmd, ConnectionInfo, Value};
use tokio::runtime::{Handle, Id};

use super::config::RedisConfig;
use super::dial;
use super::failure::Failure;
use super::generation::{Generation, Generations};

use super::lanes::{Failed, Hope, Lane, Lanes, Open, Slot, State, lock};
use super::pipeline::Span;
use super::resp::write_command;
use super::script::Call;
use crate::clock::Clock;

/// Longest pause between two tries to connect.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// Pause after the first failed try; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(25);
/// Longest WAIT: well below the time after which a connection that says nothing is taken for dead.
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(700);
/// What of a verb's time is left for the way back.
const WAY_BACK: Duration = Duration::from_millis(50);

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
    /// Never locked while a slot is.
    generations: Mutex<Generations>,
}

impl Link {
    /// For the Redis of `config`. Connects to nothing yet.
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let RedisConfig { connect_timeout, call_timeout, .. } = *config;
        let server = config.url.connection();
        dial::check(server.addr())?;
        Ok(Self {
            server,
            connect_timeout,
            call_timeout,
            clock,
            lanes: Mutex::default(),
            generations: Mutex::default(),
        })
    }

    /// The time that has passed.
    pub(super) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The time that a verb which begins now has.
    pub(super) fn budget(&self) -> Budget {
        Budget { ends: self.clock.elapsed() + self.call_timeout }
    }

    /// The generation of connections that are made now.
    pub(super) fn generation(&self) -> Generation {
        lock(&self.generations).present()
    }

    /// A connection of `made` leads to the wrong node: it and all others are left for new ones. Of many answers
    /// that say so one counts, and where new ones lead to such a node too, they are left only after a pause.
    pub(super) fn suspect(&self, made: Generation) {
        if lock(&self.generations).suspect(made, self.clock.elapsed()) {
            self.leave_all();
        }
    }

    /// All connections are left for new ones: they were made when the address led elsewhere, as far as anybody
    /// knows.
    pub(super) fn renew(&self) {
        lock(&self.generations).end();
        self.leave_all();
    }

    /// Closes what nobody waits for, and has nothing new sent over the others. To be called when the generation
    /// has ended: one that is being made is not kept then.
    fn leave_all(&self) {
        for (_, lanes) in lock(&self.lanes).iter() {
            lanes.all().for_each(Slot::leave);
        }
    }

    /// Runs a script. Says of which generation the connection is that the answer came over.
    pub(super) async fn run(
        &self,
        lane: Lane,
        call: &Call<'_>,
        budget: Budget,
    ) -> Result<(Value, Generation), Failure> {
        match self.call(lane, call.by_digest(), budget).await {
            Err(Failure::NoScript) => self.call(lane, &call.by_text(), budget).await,
            other => other,
        }
    }

    /// Sends one command.
    pub(super) async fn send(&self, lane: Lane, command: &Cmd, budget: Budget) -> Result<Value, Failure> {
        Ok(self.ask(lane, command, budget).await?.0)
    }

    /// Sends one command whose answer tells of the node. Says of which generation the connection is.
    pub(super) async fn ask(&self, lane: Lane, command: &Cmd, budget: Budget) -> Result<(Value, Generation), Failure> {
        self.call(lane, &command.get_packed_command(), budget).await
    }

    /// Runs a script and has so many replicas confirm what it wrote: the second answer is how many did.
    pub(super) async fn run_confirmed(
        &self,
        lane: Lane,
        call: &Call<'_>,
        replicas: u32,
        budget: Budget,
    ) -> Result<Confirmed, Failure> {
        match self.pair(lane, call.by_digest().to_vec(), replicas, budget).await {
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
    ) -> Result<Confirmed, Failure> {
        let (open, span) = self.open(lane, budget).await?;
        let limit = span.ends.saturating_sub(span.now + WAY_BACK).min(LONGEST_WAIT);
        // WAIT 0 would wait for ever.
        let (needed, limit) = (replicas.to_string(), limit.as_millis().max(1).to_string());
        write_command(&mut commands, [b"WAIT", needed.as_bytes(), limit.as_bytes()].into_iter());
        let mut hope = Hope { open: &open, clock: &*self.clock, began: span.now, fulfilled: false };
        let answers = open.connection.call_pair(&commands, span).await;
        if let Ok((_, Ok(Value::Int(found)))) = answers {
            hope.fulfilled = found >= i64::from(replicas);
        }
        drop(hope);
        let (value, confirmed) = answers.inspect_err(|failure| self.heed(failure, &open))?;
        Ok(Confirmed { value, confirmed, made: open.made })
    }

    /// Sends one command in the form in which it goes over the wire.
    async fn call(&self, lane: Lane, command: &[u8], budget: Budget) -> Result<(Value, Generation), Failure> {
        let (open, span) = self.open(lane, budget).await?;
        let answer = open.connection.call(command, span).await;
        let value = answer.inspect_err(|failure| self.heed(failure, &open))?;
        Ok((value, open.made))
    }

    /// What a failure tells of the node.
    fn heed(&self, failure: &Failure, open: &Open) {
        match failure {
            Failure::NotInCharge(_) => self.suspect(open.made),
            Failure::Alone(_) => open.leave(self.clock.elapsed()),
            _ => {}
        }
    }

    /// A connection of a lane, and the time that a call on it has.
    async fn open(&self, lane: Lane, budget: Budget) -> Result<(Open, Span), Failure> {
        let lanes = self.lanes();
        let slot = lanes.slot(lane);
        let now = self.clock.elapsed();
        if let Some(open) = slot.open(now) {
            return Ok((open, Span { now, ends: budget.ends }));
        }
        // Seldom, and large: it should not make the state of every call larger.
        let open = Box::pin(self.bounded(budget, self.acquire(slot))).await?;
        Ok((open, Span { now: self.clock.elapsed(), ends: budget.ends }))
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
        let generation = self.generation();
        let span = dial::within(&*self.clock, self.connect_timeout);
        let made = tokio::time::timeout(self.connect_timeout, dial::dial(&self.server, &self.clock, span)).await;
        match made.unwrap_or(Err(Failure::TimedOut)) {
            Ok(connection) => {
                let open = Open { connection, made: generation, since: self.clock.elapsed() };
                *lock(&slot.state) = State::Open(open.clone());
                // Who left all of them meanwhile may have come by before it was there.
                if self.generation() != generation {
                    slot.leave();
                }
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
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// What came of a script and of the WAIT behind it.
pub(super) struct Confirmed {
    /// The answer of the script.
    pub(super) value: Value,
    /// How many replicas have what it wrote.
    pub(super) confirmed: Result<Value, Failure>,
    /// The generation of the connection.
    pub(super) made: Generation,
}
