//! Where Argon2 runs: a light profile inline (microseconds), a heavy one on its own thread behind
//! a bounded number of permits, shedding instead of queueing.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::{Error, ErrorKind};
use crate::hash::HashError;
use crate::key::Argon2Profile;

/// Up to this much work (KiB × passes), Argon2 takes well under a millisecond.
const INLINE_WORK: u64 = 512;
/// How many heavy runs may be under way at once.
const PERMITS: usize = 4;

#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(PERMITS)) }
    }

    /// Runs `work`, whose cost is that of `profile`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        profile: Argon2Profile,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, Error> {
        if u64::from(profile.m_kib) * u64::from(profile.t) <= INLINE_WORK {
            return Ok(work()?);
        }
        let overloaded = || {
            Error::new(ErrorKind::Overloaded, "too many keys are being hashed at once; try again")
                .retry_after(std::time::Duration::from_millis(200))
        };
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| overloaded())?;
        // The permit goes with the work: a caller who gives up does not end it.
        let work = move || {
            let _permit = permit;
            work()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(HashError::Argon2.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const HEAVY: Argon2Profile = Argon2Profile { m_kib: 1024, t: 1, p: 1 };

    #[tokio::test]
    async fn heavy_work_beyond_the_permits_is_shed_and_light_work_is_not() {
        let gate = std::sync::Arc::new(Gate::new());
        let (started, running) = mpsc::channel();
        let mut releases = Vec::new();
        let mut runs = Vec::new();
        for _ in 0..PERMITS {
            let (release, wait) = mpsc::channel::<()>();
            releases.push(release);
            let (gate, started) = (std::sync::Arc::clone(&gate), started.clone());
            runs.push(tokio::spawn(async move {
                gate.run(HEAVY, move || {
                    started.send(()).map_err(|_| HashError::Argon2)?;
                    let _ = wait.recv();
                    Ok(())
                })
                .await
            }));
        }
        tokio::task::spawn_blocking(move || (0..PERMITS).for_each(|_| running.recv().unwrap())).await.unwrap();
        assert_eq!(gate.run(HEAVY, || Ok(())).await.unwrap_err().kind, ErrorKind::Overloaded);
        assert!(gate.run(Argon2Profile::LIGHT, || Ok(())).await.is_ok());
        // Callers who give up leave their work running, and its permits taken.
        for run in &runs {
            run.abort();
        }
        for run in runs {
            assert!(run.await.unwrap_err().is_cancelled());
        }
        assert_eq!(gate.run(HEAVY, || Ok(())).await.unwrap_err().kind, ErrorKind::Overloaded);
        drop(releases);
        // Once the work has ended, there is room again.
        let all = gate.permits.acquire_many(u32::try_from(PERMITS).unwrap()).await.unwrap();
        drop(all);
        assert!(gate.run(HEAVY, || Ok(())).await.is_ok());
    }
}
