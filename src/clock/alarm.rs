//! Bounds in time for very many short waits: one timer of tokio's for all waits of a thread.
//!
//! A timer of its own for each wait costs more than what most of them wait for: tokio's timers are entries of
//! a wheel, behind a lock and a pointer, and the next one to go off has its own poll woken. Here a wait is a
//! place in a list, taken and given back. The one timer is set for the wait that ends first and left alone
//! when that one is over before its time, as nearly all are; when it goes off, the list is looked through.
//! That is at most once in a millisecond, however many different bounds there are, and there are never more
//! places than waits at a time.
//!
//! For bounds, not for a rhythm or a pause: those keep their own timers.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// The bound of [`within`] was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

/// `work`, for at most `limit` from when it has to wait for the first time.
pub async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Late> {
    let mut work = std::pin::pin!(work);
    let mut alarm = Alarm::after(limit);
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Pin::new(&mut alarm).poll(context).map(|()| Err(Late)),
    })
    .await
}

/// Is ready once its time is over, a millisecond late at most. Costs nothing until it is polled: most of what
/// is bounded never has to wait.
#[derive(Debug)]
pub struct Alarm {
    after: Duration,
    set: Option<Set>,
}

/// Among which waits, and in which place.
#[derive(Debug)]
struct Set {
    bell: Arc<Bell>,
    place: usize,
}

impl Alarm {
    /// Goes off so long after it is polled for the first time, which must be in a runtime of tokio's.
    #[must_use]
    pub const fn after(span: Duration) -> Self {
        Self { after: span, set: None }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &self.set {
            Some(Set { bell, place }) => bell.ask(*place, context.waker()),
            None => match Set::new(self.after, context.waker()) {
                Some(set) => {
                    self.set = Some(set);
                    Poll::Pending
                }
                // The runtime is going away, and its timers with it.
                None => Poll::Ready(()),
            },
        }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let before = self.bell.waits().leave(self.place);
        // Outside of the lock: a waker may be more than it seems.
        drop(before);
    }
}

thread_local! {
    /// Of the runtime that ran last on this thread.
    static HERE: RefCell<Option<(Id, Arc<Bell>)>> = const { RefCell::new(None) };
}

impl Set {
    fn new(after: Duration, waker: &Waker) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "tokio's timers go by tokio's clock")]
        let now = Instant::now();
        // What is too far away to be written down is never reached.
        let ends = now.checked_add(after).unwrap_or(now + FAR);
        let runtime = Handle::current();
        let bell = HERE.with_borrow_mut(|here| match here {
            Some((id, bell)) if *id == runtime.id() => Arc::clone(bell),
            _ => {
                let bell = Arc::new(Bell::default());
                runtime.spawn(Ringer { bell: Arc::clone(&bell), timer: None });
                Arc::clone(&here.insert((runtime.id(), bell)).1)
            }
        });
        let place = bell.waits().enter(ends, waker)?;
        Some(Self { bell, place })
    }
}

/// About what tokio itself takes for "never".
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The waits of a thread.
#[derive(Debug, Default)]
struct Bell(Mutex<Waits>);

impl Bell {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        // Nothing that holds this lock can be left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the wait in `place` is over; else `waker` is told when it is.
    fn ask(&self, place: usize, waker: &Waker) -> Poll<()> {
        let mut waits = self.waits();
        let before = match waits.places.get_mut(place) {
            Some(Place::Waits { waker: known, .. }) if known.will_wake(waker) => return Poll::Pending,
            Some(Place::Waits { waker: known, .. }) => std::mem::replace(known, waker.clone()),
            _ => return Poll::Ready(()),
        };
        drop(waits);
        drop(before);
        Poll::Pending
    }
}

#[derive(Debug, Default)]
struct Waits {
    places: Vec<Place>,
    /// The free place that is taken next.
    free: Option<usize>,
    /// For when the timer is to be set.
    rings: Option<Instant>,
    /// Wakes the one who sets it; none before it ran for the first time.
    ringer: Option<Waker>,
    /// There is no timer any more.
    ended: bool,
}

#[derive(Debug)]
enum Place {
    Waits {
        ends: Instant,
        waker: Waker,
    },
    /// Its time is over.
    Over,
    /// Nobody's; with the one that is taken after it.
    Free(Option<usize>),
}

impl Waits {
    /// Takes a place. None: there is nobody left who would ring.
    fn enter(&mut self, ends: Instant, waker: &Waker) -> Option<usize> {
        if self.ended {
            return None;
        }
        let wait = Place::Waits { ends, waker: waker.clone() };
        let free = self.free.and_then(|place| Some((place, self.places.get_mut(place)?)));
        let place = match free {
            Some((place, found)) => {
                if let Place::Free(next) = std::mem::replace(found, wait) {
                    self.free = next;
                }
                place
            }
            None => {
                self.places.push(wait);
                self.places.len() - 1
            }
        };
        if self.rings.is_none_or(|rings| ends < rings) {
            self.rings = Some(ends);
            if let Some(ringer) = &self.ringer {
                ringer.wake_by_ref();
            }
        }
        Some(place)
    }

    /// Gives a place back; answers what was in it.
    fn leave(&mut self, place: usize) -> Option<Place> {
        let before = std::mem::replace(self.places.get_mut(place)?, Place::Free(self.free));
        self.free = Some(place);
        Some(before)
    }

    /// Ends the waits that are over, and knows when to do so next. Answers whom to wake.
    fn ring(&mut self, is_over: impl Fn(Instant) -> bool) -> Vec<Waker> {
        let (mut woken, mut next) = (Vec::new(), None::<Instant>);
        for place in &mut self.places {
            let Place::Waits { ends, .. } = *place else { continue };
            if !is_over(ends) {
                next = Some(next.map_or(ends, |next| next.min(ends)));
            } else if let Place::Waits { waker, .. } = std::mem::replace(place, Place::Over) {
                woken.push(waker);
            }
        }
        self.rings = next;
        woken
    }
}

/// The task that has the timer.
struct Ringer {
    bell: Arc<Bell>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Ringer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { bell, timer } = &mut *self;
        loop {
            let mut waits = bell.waits();
            if !waits.ringer.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                waits.ringer = Some(context.waker().clone());
            }
            let Some(rings) = waits.rings else { return Poll::Pending };
            drop(waits);
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(rings)));
            if timer.deadline() != rings {
                timer.as_mut().reset(rings);
            }
            ready!(timer.as_mut().poll(context));
            #[expect(clippy::disallowed_methods, reason = "tokio's timers go by tokio's clock")]
            let now = Instant::now().max(rings);
            let woken = bell.waits().ring(|ends| ends <= now);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        // The runtime goes away. Who still waits, in another one, must not wait for ever.
        let mut waits = self.bell.waits();
        waits.ended = true;
        let (woken, ringer) = (waits.ring(|_| true), waits.ringer.take());
        drop(waits);
        drop(ringer);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use proptest::prelude::*;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn places() -> usize {
        HERE.with_borrow(|here| here.as_ref().map_or(0, |(_, bell)| bell.waits().places.len()))
    }

    #[expect(clippy::disallowed_methods, reason = "tokio's timers go by tokio's clock")]
    fn now() -> Instant {
        Instant::now()
    }

    proptest! {
        #[test]
        fn each_of_many_waits_ends_at_its_time_and_the_timer_is_set_for_the_next_one(
            spans in prop::collection::vec((1_u64..200, any::<bool>()), 1..100),
        ) {
            let (mut waits, begin) = (Waits::default(), now());
            let mut left = Vec::new();
            for (span, given_up) in spans {
                let place = waits.enter(begin + millis(span), Waker::noop()).unwrap();
                if given_up {
                    waits.leave(place);
                } else {
                    left.push((span, place));
                }
            }
            // The timer may go off for one that was given up, but for none too late.
            while let Some(rings) = waits.rings {
                prop_assert!(left.iter().all(|(span, _)| begin + millis(*span) >= rings));
                let (over, others) = left.into_iter().partition(|(span, _)| begin + millis(*span) <= rings);
                left = others;
                prop_assert_eq!(waits.ring(|ends| ends <= rings).len(), Vec::<(u64, usize)>::len(&over));
                for (_, place) in over {
                    prop_assert!(matches!(waits.leave(place), Some(Place::Over)));
                }
            }
            prop_assert!(left.is_empty());
            let (taken, again) = (waits.places.len(), waits.enter(begin, Waker::noop()));
            prop_assert!(again.is_some() && waits.places.len() == taken.max(1));
        }
    }

    #[tokio::test]
    async fn bounds_are_kept_in_whatever_order_they_come() {
        let spans = (0..200_u64).map(|number| millis(1 + number * 79 % 100));
        join_all(spans.map(|span| async move {
            let begin = now();
            assert_eq!(within(span, std::future::pending::<()>()).await, Err(Late));
            assert!(now() - begin >= span, "before {span:?} had passed");
        }))
        .await;
        assert_eq!(places(), 200);
        // It goes off before the one that the timer is set for.
        let mut long = Alarm::after(Duration::from_secs(3600));
        assert!(std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut long).poll(context))).await.is_pending());
        tokio::task::yield_now().await;
        Alarm::after(millis(1)).await;
    }

    #[tokio::test]
    async fn a_wait_that_comes_after_another_one_in_its_place_has_its_own_time() {
        let begin = now();
        let mut given_up = Alarm::after(millis(5));
        assert!(std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut given_up).poll(context))).await.is_pending());
        drop(given_up);
        Alarm::after(millis(30)).await;
        assert!(now() - begin >= millis(30));
        assert_eq!(places(), 1);
    }

    #[tokio::test]
    async fn what_is_done_in_time_is_answered_and_leaves_nothing() {
        let work = |number: u64| async move {
            tokio::task::yield_now().await;
            number
        };
        for round in 0..100 {
            let numbers = join_all((0..8).map(|number| within(millis(100_000), work(round + number)))).await;
            assert!((round..).map(Ok).zip(numbers).all(|(expected, number)| number == expected));
        }
        assert!(places() <= 8, "{} places", places());
        assert_eq!(within(Duration::MAX, work(3)).await, Ok(3));
        // Nothing to wait for, and so nothing to bound.
        assert_eq!(within(Duration::ZERO, async { 1 }).await, Ok(1));
        assert_eq!(within(Duration::ZERO, std::future::pending::<()>()).await, Err(Late));
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn nobody_waits_for_a_runtime_that_is_gone() {
        let (first, second, woken) = (runtime(), runtime(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut alarm = Alarm::after(Duration::from_secs(3600));
        first.block_on(async { assert!(Pin::new(&mut alarm).poll(&mut context).is_pending()) });
        // On the same thread, and not by the timer of the first one, which stands still meanwhile.
        second.block_on(Alarm::after(millis(1)));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(Pin::new(&mut alarm).poll(&mut context).is_pending());
        drop(first);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(Pin::new(&mut alarm).poll(&mut context).is_ready());
        second.block_on(Alarm::after(millis(1)));
    }
}
