//! What the wire counts. Plain atomics, resolved when the process starts: a call takes no lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tonic::Code;

use super::error::{CODES, code_name};

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 16] = [
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Counters of the wire; clones count together.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By the index of the method; the last one is for what is no method.
    methods: Vec<PerMethod>,
    /// Paths of plain HTTP. Locked when a gateway is made and when the counts are read, never by a call.
    endpoints: Mutex<Vec<Arc<PerMethod>>>,
    /// How many are taken, by kind.
    places: [AtomicUsize; PLACES],
    connections: AtomicUsize,
    refused_connections: AtomicU64,
    shed: AtomicU64,
}

/// What is counted of one method, or of one path of plain HTTP.
#[derive(Debug)]
pub(super) struct PerMethod {
    name: String,
    /// By the number of the code.
    calls: [AtomicU64; CODES.len()],
    /// One more than bounds: the last one is for what is longer than all of them.
    latency: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl PerMethod {
    fn new(name: String) -> Self {
        let zeros = || AtomicU64::new(0);
        Self {
            name,
            calls: [(); CODES.len()].map(|()| zeros()),
            latency: [(); BUCKETS.len() + 1].map(|()| zeros()),
            micros: zeros(),
        }
    }

    /// A call was answered, or (Cancelled) nobody waits for its answer any more.
    pub(super) fn answered(&self, code: Code, took: Duration) {
        if let Some(calls) = self.calls.get(code as usize) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        if let Some(bucket) = self.latency.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// What a call occupies while it is in flight: a stranger's call never takes the place of one whose
/// caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// For methods that need a caller.
    Known,
    /// For methods that need none.
    Open,
    /// For methods that stream, as long as their answer goes on.
    Stream,
}

/// How many kinds there are.
const PLACES: usize = 3;

/// Index of what is no method.
pub(super) const UNKNOWN_METHOD: usize = usize::MAX;

impl RpcMetrics {
    /// All at zero, for these methods in the order of their indices.
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a str>) -> Self {
        let names = paths.map(|path| path.trim_start_matches('/')).chain(["unknown"]);
        Self {
            inner: Arc::new(Inner {
                methods: names.map(|name| PerMethod::new(name.to_owned())).collect(),
                endpoints: Mutex::default(),
                places: [(); PLACES].map(|()| AtomicUsize::new(0)),
                connections: AtomicUsize::new(0),
                refused_connections: AtomicU64::new(0),
                shed: AtomicU64::new(0),
            }),
        }
    }

    /// What is counted of the plain HTTP at `path`: the same for all that ask.
    pub(super) fn endpoint(&self, path: &str) -> Arc<PerMethod> {
        let name = path.trim_start_matches('/');
        let mut endpoints = self.inner.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.iter().find(|known| known.name == name) {
            return Arc::clone(known);
        }
        let made = Arc::new(PerMethod::new(name.to_owned()));
        endpoints.push(Arc::clone(&made));
        made
    }

    /// Puts them where `/metrics` finds them. The registry has the prefix `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Calls in flight now; open streams are none.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        [Place::Known, Place::Open].map(|place| self.places(place).load(Ordering::Relaxed)).iter().sum()
    }

    /// Streams open now.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.places(Place::Stream).load(Ordering::Relaxed)
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// A call was answered, or (Cancelled) nobody waits for its answer any more.
    pub(super) fn answered(&self, method: usize, code: Code, took: Duration) {
        let Some(method) = self.inner.methods.get(method).or_else(|| self.inner.methods.last()) else { return };
        method.answered(code, took);
    }

    /// Whether one more call may begin where `limit` may hold a place of this kind; if so, it must
    /// end.
    pub(super) fn begin_call(&self, place: Place, limit: usize) -> bool {
        if self.places(place).fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        self.end_call(place);
        self.inner.shed.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// A call that began has ended.
    pub(super) fn end_call(&self, place: Place) {
        self.places(place).fetch_sub(1, Ordering::Relaxed);
    }

    fn places(&self, place: Place) -> &AtomicUsize {
        let [known, open, streams] = &self.inner.places;
        match place {
            Place::Known => known,
            Place::Open => open,
            Place::Stream => streams,
        }
    }

    /// A connection begins, unless `limit` are open.
    pub(super) fn begin_connection(&self, limit: usize) -> Option<OpenConnection> {
        let counted = OpenConnection(Arc::clone(&self.inner));
        (self.inner.connections.fetch_add(1, Ordering::Relaxed) < limit).then_some(counted)
    }

    /// A connection was closed as soon as it was there.
    pub(super) fn connection_refused(&self) {
        self.inner.refused_connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection, until dropped.
pub(super) struct OpenConnection(Arc<Inner>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Collector for RpcMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Inner { methods, endpoints, places: _, connections, refused_connections, shed } = &*self.inner;
        let endpoints = endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = || methods.iter().chain(endpoints.iter().map(|endpoint| &**endpoint));

        let help = "Calls by method and gRPC code";
        let mut calls = encoder.encode_descriptor("rpc_calls", help, None, MetricType::Counter)?;
        for method in all() {
            for (code, count) in CODES.into_iter().zip(&method.calls) {
                let count = count.load(Ordering::Relaxed);
                // A series exists from the start for success, from its first call on for a failure.
                if count > 0 || code == Code::Ok {
                    let labels = [("method", method.name.as_str()), ("code", code_name(code))];
                    ConstCounter::new(count).encode(calls.encode_family(&labels)?)?;
                }
            }
        }

        let help = "Time from the headers of a call to those of its answer";
        let mut latency = encoder.encode_descriptor("rpc_latency_seconds", help, None, MetricType::Histogram)?;
        for method in all() {
            encode_latency(method, &mut latency)?;
        }

        let gauges = [
            ("rpc_in_flight", "Calls in flight", self.in_flight()),
            ("rpc_streams", "Open streams: health's Watch and reflection", self.streams()),
            ("rpc_connections", "Open connections", connections.load(Ordering::Relaxed)),
        ];
        for (name, help, gauge) in gauges {
            let value = i64::try_from(gauge).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters: [(&str, &str, &AtomicU64); 2] = [
            ("rpc_shed", "Calls refused because too many were in flight, or too many streams open", shed),
            ("rpc_connections_refused", "Connections closed at once because too many were open", refused_connections),
        ];
        for (name, help, counter) in counters {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(metric)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum of seconds need not be exact to the microsecond")]
fn encode_latency(method: &PerMethod, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
    let bounds = BUCKETS.into_iter().map(|micros| micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<_> =
        bounds.zip(&method.latency).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    if count == 0 {
        return Ok(());
    }
    let sum = method.micros.load(Ordering::Relaxed) as f64 / 1e6;
    let labels = [("method", method.name.as_str())];
    encoder.encode_family(&labels)?.encode_histogram::<[(&str, &str); 1]>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &RpcMetrics) -> String {
        let mut registry = Registry::with_prefix("keyclasp");
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn calls_are_counted_by_method_and_code_and_timed() {
        let metrics = RpcMetrics::new(["/a.B/C", "/a.B/D"].into_iter());
        metrics.answered(0, Code::Ok, Duration::from_micros(60));
        metrics.answered(0, Code::Ok, Duration::from_millis(3));
        metrics.answered(0, Code::NotFound, Duration::from_secs(60));
        metrics.answered(UNKNOWN_METHOD, Code::Unimplemented, Duration::ZERO);
        let text = text(&metrics);
        for line in [
            "keyclasp_rpc_calls_total{method=\"a.B/C\",code=\"OK\"} 2",
            "keyclasp_rpc_calls_total{method=\"a.B/C\",code=\"NOT_FOUND\"} 1",
            "keyclasp_rpc_calls_total{method=\"a.B/D\",code=\"OK\"} 0",
            "keyclasp_rpc_calls_total{method=\"unknown\",code=\"UNIMPLEMENTED\"} 1",
            "keyclasp_rpc_latency_seconds_bucket{le=\"0.00005\",method=\"a.B/C\"} 0",
            "keyclasp_rpc_latency_seconds_bucket{le=\"0.0001\",method=\"a.B/C\"} 1",
            "keyclasp_rpc_latency_seconds_bucket{le=\"0.005\",method=\"a.B/C\"} 2",
            "keyclasp_rpc_latency_seconds_bucket{le=\"10.0\",method=\"a.B/C\"} 2",
            "keyclasp_rpc_latency_seconds_bucket{le=\"+Inf\",method=\"a.B/C\"} 3",
            "keyclasp_rpc_latency_seconds_count{method=\"a.B/C\"} 3",
            "keyclasp_rpc_latency_seconds_sum{method=\"a.B/C\"} 60.00306",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
        assert!(!text.contains("latency_seconds_count{method=\"a.B/D\"}"), "{text}");
    }

    #[test]
    fn what_begins_counts_until_it_ends_and_only_so_many_begin() {
        let metrics = RpcMetrics::new(std::iter::empty());
        assert_eq!([(); 3].map(|()| metrics.begin_call(Place::Known, 2)), [true, true, false]);
        assert_eq!(metrics.in_flight(), 2);
        metrics.end_call(Place::Known);
        assert!(metrics.begin_call(Place::Known, 2));
        assert!(metrics.begin_call(Place::Open, 1), "a place of its own");
        assert!(metrics.begin_call(Place::Stream, 1), "a place of its own");
        assert_eq!((metrics.in_flight(), metrics.streams()), (3, 1));
        let connections = [(); 2].map(|()| metrics.begin_connection(1));
        assert_eq!(connections.each_ref().map(Option::is_some), [true, false]);
        assert_eq!(metrics.connections(), 1);
        let text = text(&metrics);
        assert!(text.contains("keyclasp_rpc_shed_total 1") && text.contains("keyclasp_rpc_connections 1"), "{text}");
    }
}
