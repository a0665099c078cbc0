//! Time as an argument: points in time, the clock that the composition root hands out, and how many lines of log
//! a second are enough.
//!
//! Everything that needs to know the time takes a [`Timestamp`] or a [`Clock`]. The ambient
//! clocks are read here and nowhere else (`clippy.toml` bans them).

pub mod alarm;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since the Unix epoch, from 1970 to the end of the year 9999
/// (the range of `google.protobuf.Timestamp`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// From milliseconds since the Unix epoch; later than [`Self::MAX`] becomes `MAX`.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time and `span` later, at most [`Self::MAX`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis(self.0);
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since a fixed point of this process; never goes back, and goes on while the machine is suspended.
    /// For measuring and for leases, not for expiry.
    fn elapsed(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: Duration,
}

impl SystemClock {
    /// The system's clocks; `elapsed` counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self { start: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the ambient clock becomes an argument")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().after(since_epoch)
    }

    fn elapsed(&self) -> Duration {
        since_boot().saturating_sub(self.start)
    }
}

/// Time since the machine was started. `std::time::Instant` stands still while it is suspended, and a lease that
/// did so would outlive those who wait for its end.
#[expect(clippy::disallowed_methods, reason = "this is where the ambient clock becomes an argument")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// A clock that moves only when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    millis: AtomicU64,
    start: u64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { millis: AtomicU64::new(now.0), start: now.0 }
    }

    /// Moves the clock on.
    pub fn advance(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::SeqCst).saturating_sub(self.start))
    }
}

/// At most so many lines of log a second.
#[derive(Debug)]
pub struct Throttle {
    // A clock that is no argument: it decides about nothing but lines of log.
    clock: SystemClock,
    per_second: u64,
    /// The running second in the upper half, the lines of it in the lower.
    state: AtomicU64,
    left_out: AtomicU64,
}

impl Throttle {
    /// So many.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self { clock: SystemClock::new(), per_second, state: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; if so, how many were left out before it.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(self.clock.elapsed().as_secs())
    }

    fn admit_at(&self, second: u64) -> Option<u64> {
        let admitted = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            let written = if state >> 32 == second { state & 0xffff_ffff } else { 0 };
            (written < self.per_second).then_some((second << 32) | (written + 1))
        });
        match admitted {
            Ok(_) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(9).since(Timestamp::from_millis(5)), Duration::from_millis(4));
    }

    #[test]
    fn the_last_timestamp_is_the_last_millisecond_of_the_year_9999() {
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    /// What a machine that was suspended for a day looks like: its boot is a day further away than its
    /// monotonic clock tells. A time namespace has that; where they are forbidden, this says so, and fails in CI.
    #[test]
    fn time_passes_while_the_machine_is_suspended() {
        let namespace = ["-Urf", "--time", "--boottime", "86400"];
        let allowed = std::process::Command::new("unshare").args(namespace).arg("true").status();
        if !allowed.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("KEYCLASP_CI").is_none(), "CI has to allow time namespaces, or this is not run");
            println!("not run: this machine does not allow time namespaces");
            return;
        }
        let output = std::process::Command::new("unshare")
            .args(namespace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::tests::in_a_machine_that_was_suspended", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run by time_passes_while_the_machine_is_suspended, in a namespace of its own"]
    #[expect(clippy::disallowed_methods, reason = "the clock that must not be used is compared with")]
    fn in_a_machine_that_was_suspended() {
        let monotonic = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap();
        assert!(since_boot() >= monotonic + Duration::from_secs(86_399));
    }

    #[test]
    fn a_manual_clock_moves_only_when_told_to() {
        let clock = ManualClock::new(Timestamp::from_millis(1000));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), Timestamp::from_millis(2000));
        assert_eq!(clock.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn a_throttle_admits_so_many_a_second_and_counts_the_others() {
        let throttle = Throttle::new(2);
        let admitted = [7, 7, 7, 7, 8, 8, 8].map(|second| throttle.admit_at(second));
        assert_eq!(admitted, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
    }
}
