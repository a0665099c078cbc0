//! The timer of HTTP connections: tokio's, with a clock that is read once for all that arrived together.
//!
//! HTTP/2's keep-alive asks for the time with every frame. What it measures is tens of seconds long; what
//! the answers cost could be measured in every call.

use std::cell::Cell;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// So many answers are the same at most: a worker that never rests reads the clock too.
const ANSWERS: u16 = 256;

thread_local! {
    /// The time, and how often it may still be answered.
    static LAST: Cell<Option<(Instant, u16)>> = const { Cell::new(None) };
}

/// The timer of a worker's connections.
#[derive(Debug, Clone)]
pub(super) struct CoarseTimer(TokioTimer);

impl CoarseTimer {
    pub(super) fn new() -> Self {
        Self(TokioTimer::new())
    }

    /// The worker has rested: time has passed.
    pub(super) fn rested() {
        LAST.set(None);
    }
}

impl Timer for CoarseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        let (now, left) = match LAST.get() {
            Some((now, left @ 1..)) => (now, left),
            _ => (self.0.now(), ANSWERS),
        };
        LAST.set(Some((now, left - 1)));
        now
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.0.reset(sleep, new_deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read_after_each_rest_and_after_many_answers() {
        let timer = CoarseTimer::new();
        CoarseTimer::rested();
        let first = timer.now();
        assert!((1..ANSWERS).all(|_| timer.now() == first), "read once");
        let second = timer.now();
        assert!(second > first, "read again, though it did not rest");
        assert_eq!(timer.now(), second);
        CoarseTimer::rested();
        assert!(timer.now() > second, "read again");
    }
}
