//! The places of the connections of one runtime, and what is known of those that are in them. Does not connect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::generation::Generation;
use super::pipeline::Connection;
use crate::clock::Clock;

/// Connections over which a runtime's commits are spread when they are followed by a WAIT.
const CONFIRMING: usize = 4;
/// A call that replicas have not confirmed after so long is one that they may never confirm.
const HOPE: Duration = Duration::from_millis(100);
/// A younger connection is not left because replicas do not confirm.
const YOUNG: Duration = Duration::from_millis(250);

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

/// A connection, and when it was made.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) made: Generation,
    pub(super) since: Duration,
}

impl Open {
    /// Has nothing new sent over it, unless it is young.
    pub(super) fn leave(&self, now: Duration) {
        if now >= self.since + YOUNG {
            self.connection.leave();
        }
    }
}

/// That replicas confirm something. When it is given up, be it by who asked, the node may be one that nobody
/// follows any more.
pub(super) struct Hope<'a> {
    pub(super) open: &'a Open,
    pub(super) clock: &'a dyn Clock,
    pub(super) began: Duration,
    pub(super) fulfilled: bool,
}

impl Drop for Hope<'_> {
    fn drop(&mut self) {
        let now = self.clock.elapsed();
        if !self.fulfilled && now >= self.began + HOPE {
            self.open.leave(now);
        }
    }
}

/// The connections of one runtime.
#[derive(Default)]
pub(super) struct Lanes {
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
    pub(super) fn slot(&self, lane: Lane) -> &Slot {
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
    pub(super) fn is_used(&self, now: Duration) -> bool {
        self.all().any(|slot| slot.open(now).is_some())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Slot> {
        let alone = [&self.read, &self.write, &self.beat, &self.ack, &self.wake];
        alone.into_iter().chain(&self.confirm)
    }
}

/// The place of one connection.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: Mutex<State>,
    /// Held by the one who connects.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Slot {
    pub(super) fn open(&self, now: Duration) -> Option<Open> {
        match &*lock(&self.state) {
            State::Open(open) if open.connection.is_good(now) => Some(open.clone()),
            _ => None,
        }
    }

    /// The next call makes a new connection. Who waits for an answer over the old one gets it.
    pub(super) fn leave(&self) {
        let mut state = lock(&self.state);
        // A try that failed is of no node, and its pause is to be kept.
        let left = matches!(*state, State::Open(_)).then(|| std::mem::take(&mut *state));
        drop(state);
        drop(left);
    }

    pub(super) fn failed(&self) -> Option<Failed> {
        match &*lock(&self.state) {
            State::Failed(failed) => Some(failed.clone()),
            _ => None,
        }
    }
}

#[derive(Default)]
pub(super) enum State {
    /// Nobody has asked yet.
    #[default]
    Idle,
    Open(Open),
    Failed(Failed),
}

/// The last try to connect.
#[derive(Clone)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) pause: Duration,
    pub(super) not_before: Duration,
}

/// Locks what cannot be left half-done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
