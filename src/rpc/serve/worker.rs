//! A worker: one thread, one runtime, its share of the connections.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::io::Prompt;
use super::lean::{self, Bounds, Left};
use super::timer::CoarseTimer;
use super::{QUEUE, ServeConfig, ServeError};
use crate::rpc::gateway::Gateway;
use crate::rpc::limits::ServerLimits;
use crate::rpc::metrics::OpenConnection;

/// How much one HTTP/2 stream, and one connection, may send before it is read.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// How long what runs on threads for blocking work may hold the end of a worker.
const BLOCKING_GRACE: Duration = Duration::from_millis(500);

/// A connection on its way to a worker.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) _counted: OpenConnection,
}

/// A worker's last word.
pub(super) struct Ended {
    pub(super) worker: usize,
    /// Connections that it had to drop. None: it died.
    pub(super) dropped: Option<usize>,
}

pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) config: ServeConfig,
    pub(super) limits: ServerLimits,
    pub(super) drain: CancellationToken,
}

impl Worker {
    /// Starts the thread and waits until it takes connections.
    pub(super) async fn start<F, Made>(
        self,
        factory: Arc<F>,
        ended: mpsc::Sender<Ended>,
    ) -> Result<mpsc::Sender<Accepted>, ServeError>
    where
        F: Fn(usize) -> Made + Send + Sync + 'static,
        Made: Future<Output = Result<Gateway, String>>,
    {
        let worker = self.index;
        let problem = |problem: String| ServeError::Start { worker, problem };
        let (queue, connections) = mpsc::channel(QUEUE);
        let (ready, started) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("keyclasp-rpc-{worker}"));
        // The thread is not joined: its last word says that it has ended, or died.
        thread
            .spawn(move || self.live(&*factory, connections, ready, LastWord { worker, dropped: None, ended }))
            .map_err(|error| problem(error.to_string()))?;
        match started.await {
            Ok(Ok(())) => Ok(queue),
            Ok(Err(why)) => Err(problem(why)),
            Err(_) => Err(ServeError::WorkerDied { worker }),
        }
    }

    fn live<F, Made>(
        self,
        factory: &F,
        connections: mpsc::Receiver<Accepted>,
        ready: oneshot::Sender<Result<(), String>>,
        mut last_word: LastWord,
    ) where
        F: Fn(usize) -> Made,
        Made: Future<Output = Result<Gateway, String>>,
    {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_unpark(CoarseTimer::rested)
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error.to_string()));
                return;
            }
        };
        let dropped = runtime.block_on(async {
            let gateway = match factory(self.index).await {
                Ok(gateway) => gateway,
                Err(problem) => {
                    let _ = ready.send(Err(problem));
                    return None;
                }
            };
            let _ = ready.send(Ok(()));
            Some(self.serve(gateway, connections).await)
        });
        // Drops what the drain left, before the last word says that nothing is left.
        runtime.shutdown_timeout(BLOCKING_GRACE);
        last_word.dropped = dropped;
    }

    async fn serve(&self, gateway: Gateway, mut connections: mpsc::Receiver<Accepted>) -> usize {
        let builder = Arc::new(self.builder());
        let graceful = GracefulShutdown::new();
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => break,
                accepted = connections.recv() => accepted,
            };
            let Some(accepted) = accepted else { break };
            // The drain waits for all watchers, whatever they watch.
            let (builder, watcher) = (Arc::clone(&builder), graceful.watcher());
            let (gateway, bounds, drain) = (gateway.clone(), self.bounds(), self.drain.clone());
            tasks.spawn(async move {
                let Accepted { stream, peer, _counted } = accepted;
                let Ok(stream) = taken_over(stream) else { return };
                let service = gateway.connection(peer.ip().to_canonical().to_string());
                let left = match service.lean() {
                    Some(lean) => lean::serve(stream, lean, bounds, &drain).await,
                    None => Left::Unread(stream, BytesMut::new()),
                };
                let Left::Unread(stream, unread) = left else { return };
                let io = TokioIo::new(Prompt::new(unread, stream, bounds.header_timeout));
                let connection = builder.serve_connection(io, service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%peer, error, "a connection ended by an error");
                }
            });
        }
        // What was dealt and not yet begun has not been read either: its client can go elsewhere.
        drop(connections);
        match tokio::time::timeout(self.config.drain, graceful.shutdown()).await {
            Ok(()) => 0,
            Err(_) => tasks.len(),
        }
    }

    /// Over HTTP/1.1.
    fn bounds(&self) -> Bounds {
        let ServerLimits { header_timeout, header_bytes, .. } = self.limits;
        // Less than 8 KiB is refused by a panic of hyper's.
        Bounds { header_timeout, header_bytes: usize::try_from(header_bytes).unwrap_or(usize::MAX).max(8192) }
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let Self { config, limits, .. } = self;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(CoarseTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(self.bounds().header_bytes);
        builder
            .http2()
            .timer(CoarseTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.http2_header_bytes)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(config.keep_alive_interval)
            .keep_alive_timeout(config.keep_alive_timeout);
        builder
    }
}

/// Registers a connection with the runtime of this thread.
fn taken_over(stream: std::net::TcpStream) -> std::io::Result<TcpStream> {
    // Answers are small: without this each could wait 40 ms for the one before.
    let _ = stream.set_nodelay(true);
    TcpStream::from_std(stream)
}

/// Says that the worker has ended, also when it panics.
struct LastWord {
    worker: usize,
    dropped: Option<usize>,
    ended: mpsc::Sender<Ended>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        // There is room for one word of each worker.
        let _ = self.ended.try_send(Ended { worker: self.worker, dropped: self.dropped });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_do_not_wait_for_the_one_before() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(!stream.nodelay().unwrap(), "it would be so anyway");
        assert!(taken_over(stream.into_std().unwrap()).unwrap().nodelay().unwrap());
    }

    #[test]
    fn a_worker_that_panics_is_heard_of() {
        let (ended, mut ends) = mpsc::channel(1);
        let last_word = LastWord { worker: 3, dropped: None, ended };
        let thread = std::thread::spawn(move || {
            let _last_word = last_word;
            std::panic::resume_unwind(Box::new("a fault"));
        });
        assert!(thread.join().is_err());
        let end = ends.try_recv().unwrap();
        assert_eq!((end.worker, end.dropped), (3, None));
    }
}
