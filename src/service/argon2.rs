//! Where Argon2 runs: a light profile (microseconds) on the thread that serves the call, one between two looks
//! at the sockets; a heavy one on threads of its own. Both wait in a bounded line; what finds it full is shed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Error, ErrorKind};
use crate::hash::HashError;
use crate::key::Argon2Profile;

/// Up to this much work (KiB × passes), Argon2 takes well under a millisecond.
const INLINE_WORK: u64 = 512;
/// How many light runs may wait on each serving thread: with the default profile some 30 milliseconds' worth, so
/// that the burst after a start, when no key is in memory, is served and not shed.
const LIGHT_IN_LINE: usize = 1_024;
/// How many heavy runs may wait in the whole process, those under way included.
const HEAVY_IN_LINE: usize = 16;
/// Most heavy runs at a time, however many cores there are: each takes its memory.
const MOST_HEAVY: usize = 4;

thread_local! {
    /// The line of the light runs of this serving thread. What else the thread serves, keys in memory first of
    /// all, waits for one run at most, however many are in line.
    static LIGHT: Line = Line::new(LIGHT_IN_LINE, 1);
}

#[derive(Debug)]
pub(super) struct Gate {
    heavy: Line,
}

impl Gate {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { heavy: Line::new(HEAVY_IN_LINE, cores.min(MOST_HEAVY)) }
    }

    /// Runs `work`, whose cost is that of `profile`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        profile: Argon2Profile,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, Error> {
        if u64::from(profile.m_kib) * u64::from(profile.t) <= INLINE_WORK {
            let _turn = LIGHT.with(Line::clone).turn().await?;
            // Lets the thread look at its sockets: what is there is served before this.
            tokio::task::yield_now().await;
            return Ok(work()?);
        }
        let turn = self.heavy.turn().await?;
        // The turn goes with the work: a caller who gives up does not end it.
        let work = move || {
            let _turn = turn;
            work()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(HashError::Argon2.into()),
        }
    }
}

/// A line of bounded length: first come, first served, so many at a time.
#[derive(Debug, Clone)]
struct Line {
    places: Arc<Semaphore>,
    served: Arc<Semaphore>,
}

/// The right to run, and a place in line until it is dropped.
#[derive(Debug)]
struct Turn {
    _served: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Line {
    fn new(places: usize, served: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), served: Arc::new(Semaphore::new(served)) }
    }

    /// Waits for a turn; sheds at once where every place is taken.
    async fn turn(&self) -> Result<Turn, Error> {
        let overloaded = || {
            Error::new(ErrorKind::Overloaded, "too many keys are being hashed at once; try again")
                .retry_after(std::time::Duration::from_millis(200))
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| overloaded())?;
        let served = Arc::clone(&self.served).acquire_owned().await.map_err(|_| overloaded())?;
        Ok(Turn { _served: served, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const HEAVY: Argon2Profile = Argon2Profile { m_kib: 1024, t: 1, p: 1 };

    #[tokio::test]
    async fn heavy_work_beyond_the_line_is_shed_and_light_work_is_not() {
        let gate = Arc::new(Gate::new());
        let at_once = gate.heavy.served.available_permits();
        let (started, running) = mpsc::channel();
        let (mut runs, mut releases) = (Vec::new(), Vec::new());
        for _ in 0..HEAVY_IN_LINE {
            let (release, wait) = mpsc::channel::<()>();
            releases.push(release);
            let (gate, started) = (Arc::clone(&gate), started.clone());
            runs.push(tokio::spawn(async move {
                gate.run(HEAVY, move || {
                    started.send(()).map_err(|_| HashError::Argon2)?;
                    let _ = wait.recv();
                    Ok(())
                })
                .await
            }));
        }
        let running = tokio::task::spawn_blocking(move || {
            (0..at_once).for_each(|_| running.recv().unwrap());
            running
        });
        let running = running.await.unwrap();
        assert_eq!(gate.run(HEAVY, || Ok(())).await.unwrap_err().kind, ErrorKind::Overloaded);
        assert!(gate.run(Argon2Profile::LIGHT, || Ok(())).await.is_ok());
        assert!(running.try_recv().is_err(), "more at a time than were to be");
        // Callers who give up leave what runs running, and its turns taken; who only waited leaves the line.
        for run in &runs {
            run.abort();
        }
        for run in runs {
            assert!(run.await.unwrap_err().is_cancelled());
        }
        assert_eq!(gate.heavy.places.available_permits(), HEAVY_IN_LINE - at_once);
        assert_eq!(gate.heavy.served.available_permits(), 0);
        drop(releases);
        // Once the work has ended, there is room again.
        assert!(gate.run(HEAVY, || Ok(())).await.is_ok());
    }

    #[tokio::test]
    async fn light_work_beyond_the_line_is_shed() {
        let gate = Gate::new();
        let runs = join_all((0..=LIGHT_IN_LINE).map(|_| gate.run(Argon2Profile::LIGHT, || Ok(())))).await;
        let shed: Vec<_> = runs.into_iter().filter_map(Result::err).map(|error| error.kind).collect();
        assert_eq!(shed, [ErrorKind::Overloaded]);
        assert!(gate.run(Argon2Profile::LIGHT, || Ok(())).await.is_ok());
    }

    /// What arrives at the thread while light work is in line waits for one run, not for the line.
    #[tokio::test]
    async fn whoever_else_is_served_by_the_thread_waits_for_one_light_run_at_most() {
        let gate = Arc::new(Gate::new());
        let ran = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = || ran.load(std::sync::atomic::Ordering::Relaxed);
        let runs: Vec<_> = (0..20)
            .map(|_| {
                let (gate, ran) = (Arc::clone(&gate), Arc::clone(&ran));
                tokio::spawn(async move {
                    let work = move || Ok(ran.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                    gate.run(Argon2Profile::LIGHT, work).await
                })
            })
            .collect();
        let mut before = 0;
        while count() < 20 {
            // Comes back after the runtime has looked at its sockets.
            tokio::task::yield_now().await;
            assert!(count() <= before + 1, "{} runs between two looks", count() - before);
            before = count();
        }
        assert!(join_all(runs).now_or_never().is_some());
    }
}
