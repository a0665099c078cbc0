//! Load: calls in a closed loop or at a pace, and the figures of one run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use keyclasp::clock::{Clock as _, SystemClock};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::machine;
use super::servers::Material;
use super::wire::Connection;

/// What is called, and how every call has to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    /// ValidateKey: VALID.
    Valid,
    /// ValidateKey: UNKNOWN.
    Unknown,
    /// Envoy's Check: the request may pass.
    Allowed,
}

impl Method {
    const fn path(self) -> &'static str {
        match self {
            Self::Valid | Self::Unknown => "/keyclasp.v1.KeyService/ValidateKey",
            Self::Allowed => "/envoy.service.auth.v3.Authorization/Check",
        }
    }

    /// How the message of a right answer begins.
    const fn begins(self) -> [u8; 2] {
        match self {
            // `outcome` is field 1, a number.
            Self::Valid => [0x08, 1],
            Self::Unknown => [0x08, 3],
            // `status` is field 1, a message; where it is empty, all is well.
            Self::Allowed => [0x0a, 0],
        }
    }

    /// What is asked.
    pub(crate) const fn messages(self, material: &Material) -> &Arc<[Vec<u8>]> {
        match self {
            Self::Valid => &material.valid,
            Self::Unknown => &material.forged,
            Self::Allowed => &material.checks,
        }
    }
}

/// Most calls in flight of a paced load: what is beyond that is not sent.
const MOST_PACED: usize = 128;

/// What is asked of a server.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) token: Arc<str>,
    /// Messages to send, one after the other, from the start again at the end.
    pub(crate) messages: Arc<[Vec<u8>]>,
    /// What is called, and what every answer must be.
    pub(crate) method: Method,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// Whether calls may be answered with an error. They count as calls, and are counted besides.
    pub(crate) may_be_refused: bool,
}

/// When the next call is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as one is answered: so many in flight on each connection.
    Closed(usize),
    /// So many each millisecond on each connection.
    Every(usize),
}

/// How long a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

impl Span {
    /// A measurement of this length, after a fifth of it to warm up.
    pub(crate) fn of(measured: Duration) -> Self {
        Self { warm: measured / 5, measured }
    }
}

/// What came of a load.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Times to an answer, in µs.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// CPU time of the server for a call, in µs; of all loads of the run together.
    pub(crate) cpu: f64,
    pub(crate) calls: u64,
    /// Of all calls, those before and after the measurement included: answered with an error.
    pub(crate) refused: u64,
}

#[derive(Debug, Default)]
struct Phase {
    recording: AtomicBool,
    over: AtomicBool,
    calls: AtomicU64,
}

/// Runs the loads at the same time against the server `pid`.
pub(crate) async fn run(loads: &[Load], pid: u32, span: Span) -> anyhow::Result<Vec<Figures>> {
    let clock = Arc::new(SystemClock::new());
    let mut running = Vec::new();
    for load in loads {
        let phase = Arc::new(Phase::default());
        let mut tasks = Vec::new();
        for number in 0..load.connections {
            tasks.push(tokio::spawn(one(load.clone(), number, Arc::clone(&clock), Arc::clone(&phase))));
        }
        running.push((phase, tasks));
    }
    sleep(span.warm).await;
    let begin = (clock.elapsed(), machine::cpu_time(pid)?);
    for (phase, _) in &running {
        phase.recording.store(true, Ordering::Relaxed);
    }
    sleep(span.measured).await;
    let end = (clock.elapsed(), machine::cpu_time(pid)?);
    for (phase, _) in &running {
        phase.recording.store(false, Ordering::Relaxed);
        phase.over.store(true, Ordering::Relaxed);
    }
    let seconds = (end.0 - begin.0).as_secs_f64();
    let all: u64 = running.iter().map(|(phase, _)| phase.calls.load(Ordering::Relaxed)).sum();
    let mut figures = Vec::new();
    for (phase, tasks) in running {
        let (mut times, mut refused) = (Vec::new(), 0);
        for task in tasks {
            let (of_one, refused_of_one) = task.await??;
            times.extend(of_one);
            refused += refused_of_one;
        }
        let calls = phase.calls.load(Ordering::Relaxed);
        ensure!(calls > 0, "no call was answered");
        times.sort_unstable();
        figures.push(Figures {
            rate: count(calls) / seconds,
            p50: micros(&times, 0.5),
            p99: micros(&times, 0.99),
            p999: micros(&times, 0.999),
            cpu: (end.1 - begin.1).as_secs_f64() * 1e6 / count(all),
            calls,
            refused,
        });
    }
    Ok(figures)
}

/// Sends each message once, one after the other: the server has met them all then.
pub(crate) async fn meet(load: &Load) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let mut messages = load.messages.iter();
    let Some(first) = messages.next() else { return Ok(()) };
    let mut connection = open(load, first).await?;
    for message in messages {
        connection.call(message, clock.elapsed());
        connection.flush().await?;
        while connection.in_flight() > 0 {
            connection.receive().await?;
            connection.completed(|_| {})?;
        }
    }
    Ok(())
}

async fn open(load: &Load, first: &[u8]) -> anyhow::Result<Connection> {
    let method = load.method;
    Connection::open(load.address, method.path(), &load.token, method.begins(), load.may_be_refused, first).await
}

/// One connection; answers the time of each call that ended while it was recorded, in ns, and how many of all
/// were answered with an error.
async fn one(load: Load, number: usize, clock: Arc<SystemClock>, phase: Arc<Phase>) -> anyhow::Result<(Vec<u32>, u64)> {
    let mut messages = load.messages.iter().cycle().skip(number * load.messages.len() / load.connections.max(1));
    let first = messages.next().map(Vec::as_slice).unwrap_or_default();
    let mut connection = open(&load, first).await?;
    let mut times = Vec::new();
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // How many calls to make before the next wait.
    let mut wanted = match load.pace {
        Pace::Closed(in_flight) => in_flight,
        Pace::Every(_) => 0,
    };
    loop {
        let now = clock.elapsed();
        if phase.over.load(Ordering::Relaxed) {
            wanted = 0;
            if connection.in_flight() == 0 {
                return Ok((times, connection.refused()));
            }
        }
        while wanted > 0 {
            let Some(message) = messages.next() else { break };
            if !connection.has_room(message.len()) {
                break;
            }
            connection.call(message, now);
            wanted -= 1;
        }
        connection.flush().await?;
        match load.pace {
            Pace::Closed(_) => connection.receive().await?,
            Pace::Every(calls) => tokio::select! {
                _ = tick.tick() => wanted = calls.min(MOST_PACED.saturating_sub(connection.in_flight())),
                received = connection.receive(), if connection.in_flight() > 0 => received?,
            },
        }
        let now = clock.elapsed();
        let recording = phase.recording.load(Ordering::Relaxed);
        let mut done = 0;
        connection.completed(|sent| {
            done += 1;
            if recording {
                times.push(u32::try_from((now - sent).as_nanos()).unwrap_or(u32::MAX));
            }
        })?;
        if recording {
            phase.calls.fetch_add(u64::try_from(done)?, Ordering::Relaxed);
        }
        if let Pace::Closed(_) = load.pace {
            wanted += done;
        }
    }
}

/// The quantile of sorted times in ns, in µs.
pub(crate) fn micros(sorted: &[u32], quantile: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = (count(u64::try_from(sorted.len()).unwrap_or(u64::MAX)) * quantile) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(0.0, |time| f64::from(*time) / 1000.0)
}

/// A number of things as one to divide.
#[expect(clippy::cast_precision_loss, reason = "counts here lie far below 2^53")]
pub(crate) const fn count(number: u64) -> f64 {
    number as f64
}

/// The median; of an even number of values the upper one of the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
