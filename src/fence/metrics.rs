//! What the fence tells those who watch it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::cache::Size;
use super::shard::{Standing, nanos};

/// From a quarter of a millisecond to a minute, the longest lease.
const BUCKETS: [f64; 13] = [250e-6, 500e-6, 1e-3, 2e-3, 3e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 2.0, 10.0, 60.0];

/// What came of waiting for a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Came {
    /// Every member has applied the change.
    Acknowledged,
    /// The lease of one had to end.
    Lapsed,
    /// The caller's time was up.
    TimeUp,
    /// Another history began.
    Unknown,
}

impl EncodeLabelValue for Came {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Self::Acknowledged => "acknowledged",
            Self::Lapsed => "lapsed",
            Self::TimeUp => "time_up",
            Self::Unknown => "unknown",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    result: Came,
}

/// How long changes waited.
#[derive(Debug)]
pub(super) struct WaitMetrics {
    waits: Family<WaitLabels, Counter>,
    durations: Histogram,
    /// In nanoseconds: all of them together, and the longest one.
    total: AtomicU64,
    longest: AtomicU64,
}

/// What changes of this process that took something away have waited for since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waits {
    /// Changes that every member had applied when they were answered.
    pub acknowledged: u64,
    /// Changes that waited for a lease to end, because a member was silent.
    pub lapsed: u64,
    /// Changes whose caller's time was up before.
    pub time_up: u64,
    /// Changes during which another history began.
    pub unknown: u64,
    /// How long each of them waited, on average.
    pub average: Duration,
    /// How long the longest one waited.
    pub longest: Duration,
}

impl Waits {
    /// How many there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.acknowledged.saturating_add(self.lapsed).saturating_add(self.time_up).saturating_add(self.unknown)
    }
}

impl Default for WaitMetrics {
    fn default() -> Self {
        let durations = Histogram::new(BUCKETS);
        Self { waits: Family::default(), durations, total: AtomicU64::new(0), longest: AtomicU64::new(0) }
    }
}

impl WaitMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Changes that took something away and waited for other replicas, by what came of it";
        registry.register("fence_waits", help, self.waits.clone());
        let help = "How long such a change waited after it was written";
        registry.register_with_unit("fence_wait_duration", help, Unit::Seconds, self.durations.clone());
    }

    pub(super) fn waited(&self, result: Came, took: Duration) {
        self.waits.get_or_create(&WaitLabels { result }).inc();
        self.durations.observe(took.as_secs_f64());
        self.total.fetch_add(nanos(took), Ordering::Relaxed);
        self.longest.fetch_max(nanos(took), Ordering::Relaxed);
    }

    /// What there was so far.
    pub(super) fn so_far(&self) -> Waits {
        let count = |result| self.waits.get_or_create(&WaitLabels { result }).get();
        let waits = Waits {
            acknowledged: count(Came::Acknowledged),
            lapsed: count(Came::Lapsed),
            time_up: count(Came::TimeUp),
            unknown: count(Came::Unknown),
            ..Waits::default()
        };
        let total = self.total.load(Ordering::Relaxed);
        Waits {
            average: Duration::from_nanos(total.checked_div(waits.count()).unwrap_or_default()),
            longest: Duration::from_nanos(self.longest.load(Ordering::Relaxed)),
            ..waits
        }
    }
}

/// How full the memory is.
pub(super) struct Sizes<F>(pub(super) F);

impl<F> fmt::Debug for Sizes<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sizes")
    }
}

impl<F: Fn() -> Size + Send + Sync + 'static> Collector for Sizes<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let size = (self.0)();
        let gauges = [
            ("records_held", "Records in memory", u64::try_from(size.values).unwrap_or(u64::MAX)),
            ("records_held_bytes", "Memory that they take, about", size.bytes),
            ("records_room_bytes", "Memory that they may take", size.room),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// How the shards stand.
pub(super) struct Standings<F>(pub(super) F);

impl<F> fmt::Debug for Standings<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standings")
    }
}

/// A value of one shard.
type Of = fn(&Standing) -> f64;

impl<F: Fn() -> Vec<Standing> + Send + Sync + 'static> Collector for Standings<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let standings = (self.0)();
        #[expect(clippy::cast_precision_loss, reason = "counts for people to look at")]
        let gauges: [(&str, &str, Of); 5] = [
            (
                "lease_left_seconds",
                "How long the lease of a shard still runs; 0: there is none, and keys are not validated",
                |it| it.left.unwrap_or_default().as_secs_f64(),
            ),
            ("lease_members", "Processes that may hold a lease of a shard", |it| it.members as f64),
            ("lease_settled", "Whether no lease of an earlier history can still run: 1, or 0", |it| {
                f64::from(u8::from(it.settled))
            }),
            ("log_lag", "Entries of a shard's log that were heard of and not applied yet", |it| it.lag as f64),
            (
                "memory_turns",
                "How often the records of a shard in memory were dropped: a new history, or a gap in its log",
                |it| it.turns as f64,
            ),
        ];
        for (name, help, value) in gauges {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, standing) in standings.iter().enumerate() {
                let gauge = ConstGauge::new(value(standing));
                gauge.encode(encoder.encode_family(&[("shard", shard.to_string())])?)?;
            }
        }
        Ok(())
    }
}
