//! Load over HTTP/1.1: a client that costs little, requests in a closed loop, and the figures of one run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BytesMut};
use keyclasp::clock::{Clock as _, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::drive::{Span, count, micros};
use super::machine;

/// What is asked of a server. Every answer must be 200.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Requests to send, one after the other, from the start again at the end.
    pub(crate) requests: Arc<[Vec<u8>]>,
    /// Each has one request in flight.
    pub(crate) connections: usize,
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Times to an answer, in µs.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// CPU time for a request, in µs, of each of the processes that were asked about.
    pub(crate) cpu: Vec<f64>,
    pub(crate) answers: u64,
}

#[derive(Debug, Default)]
struct Phase {
    recording: AtomicBool,
    over: AtomicBool,
}

/// Sends each request once, one after the other: the server has met them all then.
pub(crate) async fn meet(load: &Load) -> anyhow::Result<()> {
    let (mut stream, mut input) = (connect(load.address).await?, BytesMut::new());
    for request in &*load.requests {
        exchange(&mut stream, &mut input, request).await?;
    }
    Ok(())
}

/// Runs it; `pids` are the processes whose CPU time is wanted.
pub(crate) async fn run(load: &Load, pids: &[u32], span: Span) -> anyhow::Result<Figures> {
    let (clock, phase) = (Arc::new(SystemClock::new()), Arc::new(Phase::default()));
    let tasks: Vec<_> = (0..load.connections)
        .map(|number| tokio::spawn(one(load.clone(), number, Arc::clone(&clock), Arc::clone(&phase))))
        .collect();
    let cpu = || pids.iter().map(|pid| machine::cpu_time(*pid)).collect::<anyhow::Result<Vec<_>>>();
    sleep(span.warm).await;
    let (begin, before) = (clock.elapsed(), cpu()?);
    phase.recording.store(true, Ordering::Relaxed);
    sleep(span.measured).await;
    phase.recording.store(false, Ordering::Relaxed);
    let (end, after) = (clock.elapsed(), cpu()?);
    phase.over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    ensure!(!times.is_empty(), "no request was answered");
    times.sort_unstable();
    let number = u64::try_from(times.len())?;
    let answers = count(number);
    Ok(Figures {
        rate: answers / (end - begin).as_secs_f64(),
        p50: micros(&times, 0.5),
        p99: micros(&times, 0.99),
        cpu: after.iter().zip(before).map(|(after, before)| (*after - before).as_secs_f64() * 1e6 / answers).collect(),
        answers: number,
    })
}

/// One connection; answers the time of each request that was answered while it was recorded, in ns.
async fn one(load: Load, number: usize, clock: Arc<SystemClock>, phase: Arc<Phase>) -> anyhow::Result<Vec<u32>> {
    let mut stream = connect(load.address).await?;
    let mut requests = load.requests.iter().cycle().skip(number * load.requests.len() / load.connections.max(1));
    let (mut input, mut times) = (BytesMut::with_capacity(1 << 14), Vec::new());
    while !phase.over.load(Ordering::Relaxed) {
        let request = requests.next().context("no requests")?;
        let sent = clock.elapsed();
        exchange(&mut stream, &mut input, request).await?;
        if phase.recording.load(Ordering::Relaxed) {
            times.push(u32::try_from((clock.elapsed() - sent).as_nanos()).unwrap_or(u32::MAX));
        }
    }
    Ok(times)
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("{address} does not answer"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request and waits for the whole of its answer.
async fn exchange(stream: &mut TcpStream, input: &mut BytesMut, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let length = loop {
        if let Some(length) = answered(input)? {
            break length;
        }
        ensure!(stream.read_buf(input).await? > 0, "the server closed the connection");
    };
    input.advance(length);
    Ok(())
}

/// The length of the whole answer at the beginning of `input`, once it is there.
fn answered(input: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(input.get(..end).unwrap_or_default()).to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200 "), "answered {}", head.lines().next().unwrap_or_default());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
    let whole = end + 4 + length;
    Ok((input.len() >= whole).then_some(whole))
}

/// How long a measurement of this kind is.
pub(crate) fn span(measured: Duration) -> Span {
    // CPU time comes in steps of 10 ms: shorter ones say little about it.
    Span::of(measured.max(Duration::from_secs(1)))
}
