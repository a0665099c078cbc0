//! Port 7414, for those who run keyclasp: `/metrics`, `/livez`, `/readyz`. HTTP/1.1, no secrets, no
//! authentication: it belongs on an address that only they can reach.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a peer may take to send its request, or idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one connection may take for everything: a scrape needs a second.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// How long the acceptor rests when the system has no descriptors left.
const REST: Duration = Duration::from_millis(100);
/// The form of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether this process can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It cannot; why, for people.
    NotReady(String),
}

/// What port 7414 tells.
#[derive(Debug, Clone)]
pub struct Ops {
    registry: Arc<Registry>,
    ready: watch::Receiver<Readiness>,
}

impl Ops {
    /// Tells of these.
    #[must_use]
    pub const fn new(registry: Arc<Registry>, ready: watch::Receiver<Readiness>) -> Self {
        Self { registry, ready }
    }

    /// Serves until `shutdown`, then stops at once: shut it down last, so that the end of everything
    /// else can be watched here.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub async fn run(self, listener: std::net::TcpListener, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // Dropped at the end of this function, and with it every connection.
        let mut connections = JoinSet::new();
        let accept = async {
            loop {
                // Never closed: there is always a place in the end.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let ops = self.clone();
                        connections.spawn(async move {
                            let _place = place;
                            let _ = stream.set_nodelay(true);
                            let _ = tokio::time::timeout(CONNECTION_TIME, ops.connection(stream)).await;
                        });
                    }
                    Err(_) => tokio::time::sleep(REST).await,
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
        Ok(())
    }

    async fn connection(self, stream: tokio::net::TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(8192)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection for operations ended by an error");
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/livez" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz here\n");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics(),
            "/livez" => text(StatusCode::OK, "ok\n"),
            _ => match &*self.ready.borrow() {
                Readiness::Ready => text(StatusCode::OK, "ready\n"),
                Readiness::NotReady(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            },
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut body = String::new();
        if prometheus_client::encoding::text::encode(&mut body, &self.registry).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written as text\n");
        }
        let mut response = text(StatusCode::OK, body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::rpc::serve::bind;

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_tells_what_it_has_to_tell_and_stops_when_told_to() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("things", "Things", counter.clone());
        counter.inc();
        let (readiness, ready) = watch::channel(Readiness::NotReady("the store does not answer".to_owned()));
        let listener = bind(([127, 0, 0, 1], 0).into(), "server.ops_listen").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(Ops::new(Arc::new(registry), ready).run(listener, async {
            let _ = stopped.await;
        }));

        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains(OPENMETRICS), "{metrics}");
        assert!(metrics.contains("things_total 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
        let not_ready = ask(address, "GET /readyz").await;
        assert!(
            not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("the store does not answer"),
            "{not_ready}"
        );
        readiness.send_replace(Readiness::Ready);
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        let post = ask(address, "POST /metrics").await;
        assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");

        let idle = tokio::net::TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        drop(idle);
        tokio::net::TcpStream::connect(address).await.expect_err("nobody listens any more");
    }
}
