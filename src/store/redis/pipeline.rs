//! One connection: commands go out in order, replies come back in that order.
//!
//! This is the check path, so it does little for a call. Who calls while nothing else is under way writes
//! to the socket itself; otherwise its command waits for those that call meanwhile, and the *driver*, a
//! task of the runtime that connected, writes them at once. The driver reads the replies. One timer
//! serves all calls: it is set for the one that ends first, and left alone when that one is answered,
//! because the next one that needs it comes soon. (A timer for each call wakes tokio's own poll, by a
//! write to an eventfd, each time that it is the next one to go off.)
//!
//! A call that nobody waits for any more still has its reply taken off the connection. Nothing here is
//! sent twice, and nothing here connects.

mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redis::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use self::wire::{Caller, Wire, gone};
use super::failure::Failure;
use crate::clock::Clock;
use crate::clock::alarm::{Late, within};

/// Calls under way on one connection before others wait.
const PIPELINE: usize = 1024;
/// How long a connection may leave everybody without an answer.
const SILENCE: Duration = Duration::from_secs(1);
/// What a connection runs over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection. Clones are the same one; it is closed when the last of them is dropped.
#[derive(Clone)]
pub(super) struct Connection {
    handle: Arc<Handle>,
}

/// When a call is made, and when it must have been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) now: Duration,
    pub(super) ends: Duration,
}

impl Connection {
    /// Takes over a transport; the driver becomes a task of this runtime.
    pub(super) fn new(transport: Box<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            wire: Mutex::new(Wire::new(transport)),
            room: Semaphore::new(PIPELINE),
            life: Life::default(),
            clock,
        });
        let driver = Driver { shared: Arc::clone(&shared), timer: None, woken: Vec::new() };
        tokio::spawn(driver);
        Self { handle: Arc::new(Handle(shared)) }
    }

    /// Sends a command and waits for its reply.
    pub(super) async fn call(&self, command: &[u8], span: Span) -> Result<Value, Failure> {
        let shared = &*self.handle.0;
        let span = shared.places(1, span).await?;
        shared.submit(command, 1, span)?.await
    }

    /// Sends two commands, between which nobody else's comes, and waits for both replies. When the first one
    /// is an error, the second is not waited for.
    pub(super) async fn call_pair(
        &self,
        commands: &[u8],
        span: Span,
    ) -> Result<(Value, Result<Value, Failure>), Failure> {
        let shared = &*self.handle.0;
        let span = shared.places(2, span).await?;
        let first = shared.submit(commands, 2, span)?;
        // Made at once: who goes away must leave both.
        let second = Answer { shared, number: first.number + 1, taken: false };
        Ok((first.await?, second.await))
    }

    /// The next call should use another one. Those that are under way are answered.
    pub(super) fn leave(&self) {
        self.handle.0.life.end();
    }

    /// Whether the next call may use it.
    pub(super) fn is_good(&self, now: Duration) -> bool {
        self.handle.0.life.is_good(now)
    }
}

/// Closes the connection when dropped.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let mut wire = self.0.wire();
        wire.closed = true;
        if let Some(driver) = &wire.driver {
            driver.wake_by_ref();
        }
    }
}

struct Shared {
    wire: Mutex<Wire>,
    /// A place for each call under way.
    room: Semaphore,
    life: Life,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        // Nothing that holds this lock can be left half-done by a panic but a reply, and with it the
        // driver ends.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the places of so many calls, which wait while there are none; the span begins anew then.
    async fn places(&self, calls: u32, mut span: Span) -> Result<Span, Failure> {
        if span.now >= span.ends {
            return Err(Failure::TimedOut);
        }
        match self.room.try_acquire_many(calls) {
            Ok(places) => places.forget(),
            Err(_) => {
                let left = span.ends.saturating_sub(span.now);
                let places = within(left, self.room.acquire_many(calls)).await;
                places.map_err(|Late| Failure::TimedOut)?.map_err(|_| gone())?.forget();
                // The connection is not silent because this one had to wait.
                span.now = self.clock.elapsed();
            }
        }
        Ok(span)
    }

    /// Puts commands, whose places have been taken, behind the others. The answer is to the first one.
    fn submit(&self, command: &[u8], replies: usize, span: Span) -> Result<Answer<'_>, Failure> {
        let mut wire = self.wire();
        if let Some(failure) = &wire.failed {
            let failure = failure.clone();
            drop(wire);
            self.room.add_permits(replies);
            return Err(failure);
        }
        self.life.asked(span.now);
        let number = wire.submit(command, replies, span.ends);
        Ok(Answer { shared: self, number, taken: false })
    }
}

/// The reply to come.
struct Answer<'a> {
    shared: &'a Shared,
    number: u64,
    taken: bool,
}

impl Future for Answer<'_> {
    type Output = Result<Value, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut wire = self.shared.wire();
        let Some(call) = wire.call(self.number) else { return Poll::Ready(Err(gone())) };
        // What is replaced is dropped outside of the lock: a waker may be more than it seems.
        let before = match &mut call.caller {
            Caller::Waits(Some(waker)) if waker.will_wake(context.waker()) => return Poll::Pending,
            Caller::Waits(waker) => waker.replace(context.waker().clone()),
            caller => {
                let caller = std::mem::replace(caller, Caller::Left);
                let free = wire.clear();
                drop(wire);
                self.taken = true;
                self.shared.room.add_permits(free);
                return match caller {
                    Caller::Has(answer) => Poll::Ready(answer),
                    _ => Poll::Ready(Err(gone())),
                };
            }
        };
        drop(wire);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut wire = self.shared.wire();
        let caller = wire.call(self.number).map(|call| std::mem::replace(&mut call.caller, Caller::Left));
        let free = wire.clear();
        drop(wire);
        drop(caller);
        self.shared.room.add_permits(free);
    }
}

/// The task of a connection.
struct Driver {
    shared: Arc<Shared>,
    /// With when it goes off.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    /// Who is to be woken when the lock is released; empty between polls.
    woken: Vec<Waker>,
}

impl Driver {
    /// One round over both ends and the timer.
    fn round(&mut self, wire: &mut Wire, context: &mut Context<'_>) -> Result<(), Failure> {
        if !wire.driver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            wire.driver = Some(context.waker().clone());
        }
        wire.write(context)?;
        if wire.read(context, &mut self.woken)? {
            self.shared.life.answered();
        }
        while let Some(ends) = wire.timer {
            let (set, timer) = match &mut self.timer {
                Some(timer) if timer.0 == ends => timer,
                timer => {
                    let left = ends.saturating_sub(self.shared.clock.elapsed());
                    timer.insert((ends, Box::pin(tokio::time::sleep(left))))
                }
            };
            if timer.as_mut().poll(context).is_pending() {
                break;
            }
            if wire.expire(*set, &mut self.woken) {
                self.shared.life.end();
            }
            self.timer = None;
        }
        Ok(())
    }

    fn fail(&mut self, failure: Failure) {
        self.shared.life.end();
        let mut wire = self.shared.wire();
        let transport = wire.fail(failure, &mut self.woken);
        let free = wire.clear();
        drop(wire);
        drop(transport);
        self.shared.room.add_permits(free);
        self.wake();
    }

    fn wake(&mut self) {
        for waker in self.woken.drain(..) {
            waker.wake();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Arc::clone(&this.shared);
        let mut wire = shared.wire();
        if wire.closed {
            drop(wire);
            this.fail(gone());
            return Poll::Ready(());
        }
        let outcome = this.round(&mut wire, context);
        let free = wire.clear();
        drop(wire);
        if free > 0 {
            shared.room.add_permits(free);
        }
        match outcome {
            Ok(()) => {
                this.wake();
                Poll::Pending
            }
            Err(failure) => {
                this.fail(failure);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The runtime went away, or a panic was caught; else nobody is left to hear of this.
        self.fail(gone());
    }
}

/// What is known of a connection from how it answers.
#[derive(Default)]
struct Life {
    /// Whether the driver ended, a call was not answered in time, or nobody wants it any more.
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

#[cfg(test)]
mod tests;
