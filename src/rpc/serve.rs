//! Serves a gateway on a bound listener: a runtime of one thread per core behind one acceptor.
//!
//! The acceptor deals connections to the workers in turn: gRPC clients keep few connections for
//! long, and the kernel's choice among several listeners would leave cores idle. Every queue is
//! bounded; what cannot be served is closed at once. The end is bounded too: an open stream that
//! never ends (health's Watch) does not hold it.

mod bind;
mod io;
mod lean;
mod timer;
mod worker;

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub use self::bind::{BindError, bind};
use self::worker::{Accepted, Ended, Worker};
use super::gateway::{Gateway, Rpc};
use crate::clock::Throttle;

/// How to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeConfig {
    /// Threads that serve. None: as many as the cores that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// How long calls and streams may go on after the shutdown began.
    pub drain: Duration,
    /// How long an HTTP/2 connection may be silent before it is asked whether it lives.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer that.
    pub keep_alive_timeout: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            workers: None,
            drain: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
        }
    }
}

impl ServeConfig {
    /// Threads that serve: what affinity and CPU quota leave this process, unless configured.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Connections that were still open when the time was up, and were dropped.
    pub dropped: usize,
}

/// Serving ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("the listener cannot be used: {0}")]
    Listener(#[source] std::io::Error),
    /// A worker could not start.
    #[error("worker {worker} did not start: {problem}")]
    Start {
        /// Which.
        worker: usize,
        /// Why.
        problem: String,
    },
    /// A worker died: a fault of this program.
    #[error("worker {worker} died")]
    WorkerDied {
        /// Which.
        worker: usize,
    },
}

/// Connections that may wait for a worker.
const QUEUE: usize = 128;
/// How long the acceptor rests when the system has no descriptors left.
const REST: Duration = Duration::from_millis(100);
/// How much longer than its own bound a worker's end may take before it is given up.
const WORKER_GRACE: Duration = Duration::from_secs(2);

/// A server.
#[derive(Debug)]
pub struct Server<F> {
    config: ServeConfig,
    rpc: Rpc,
    factory: Arc<F>,
}

impl<F, Made> Server<F>
where
    F: Fn(usize) -> Made + Send + Sync + 'static,
    Made: Future<Output = Result<Gateway, String>>,
{
    /// `factory` makes the gateway of a worker, on its thread and in its runtime: what it connects
    /// or spawns lives there.
    #[must_use]
    pub fn new(config: ServeConfig, rpc: Rpc, factory: F) -> Self {
        Self { config, rpc, factory: Arc::new(factory) }
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// When a worker does not start or dies.
    pub async fn run(
        self,
        listener: std::net::TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<DrainReport, ServeError> {
        listener.set_nonblocking(true).map_err(ServeError::Listener)?;
        let listener = TcpListener::from_std(listener).map_err(ServeError::Listener)?;
        let drain = CancellationToken::new();
        // However this ends, by an error or by being dropped, the workers end too.
        let _workers_end_with_this = drain.clone().drop_guard();
        let count = self.config.worker_count();
        let (ended, mut ends) = tokio::sync::mpsc::channel(count);
        let mut queues = Vec::with_capacity(count);
        for index in 0..count {
            let worker = Worker { index, config: self.config, limits: *self.rpc.limits(), drain: drain.clone() };
            queues.push(worker.start(Arc::clone(&self.factory), ended.clone()).await?);
        }
        drop(ended);

        let mut acceptor = Acceptor { rpc: self.rpc, queues, next: 0, warnings: Throttle::new(1) };
        tokio::select! {
            () = acceptor.run(&listener) => {}
            end = ends.recv() => return Err(died(end)),
            () = shutdown => {}
        }
        drop((listener, acceptor));
        drain.cancel();

        let mut report = DrainReport::default();
        let wait_for_all = async {
            for _ in 0..count {
                match ends.recv().await {
                    Some(Ended { dropped: Some(dropped), .. }) => report.dropped += dropped,
                    end => return Err(died(end)),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(self.config.drain + WORKER_GRACE, wait_for_all).await {
            Ok(result) => result?,
            Err(_) => tracing::warn!("a worker is busy beyond the bound of the drain; it is left behind"),
        }
        Ok(report)
    }
}

fn died(end: Option<Ended>) -> ServeError {
    ServeError::WorkerDied { worker: end.map_or(0, |end| end.worker) }
}

/// Takes connections and deals them to the workers in turn.
struct Acceptor {
    rpc: Rpc,
    queues: Vec<tokio::sync::mpsc::Sender<Accepted>>,
    next: usize,
    warnings: Throttle,
}

impl Acceptor {
    async fn run(&mut self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.deal(stream, peer),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(left_out) = self.warnings.admit() {
                        tracing::warn!(%error, left_out, "cannot accept connections; is the limit of open files too low?");
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn deal(&mut self, stream: TcpStream, peer: SocketAddr) {
        let limit = self.rpc.limits().connections;
        let metrics = self.rpc.metrics();
        let Some(counted) = metrics.begin_connection(limit) else {
            return self.refuse(limit, "too many connections are open");
        };
        // Its registration is with this runtime; the worker registers it with its own.
        let Ok(stream) = stream.into_std() else { return };
        let mut accepted = Accepted { stream, peer, _counted: counted };
        for _ in 0..self.queues.len() {
            self.next = (self.next + 1) % self.queues.len();
            let Some(queue) = self.queues.get(self.next) else { return };
            match queue.try_send(accepted) {
                Ok(()) => return,
                Err(unsent) => accepted = unsent.into_inner(),
            }
        }
        self.refuse(QUEUE, "too many connections wait for every worker");
    }

    fn refuse(&self, limit: usize, why: &'static str) {
        self.rpc.metrics().connection_refused();
        if let Some(left_out) = self.warnings.admit() {
            tracing::warn!(limit, left_out, "closed a connection at once: {why}");
        }
    }
}

/// Whether an error of accept is about the connection that would have been accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
