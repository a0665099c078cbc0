//! HTTP to Keycloak: bounded in time, in size and in how much of it goes on at once. Follows no redirects: what
//! answers with one is not what was configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;

use crate::clock::alarm::{Late, within};

/// Bytes of the longest answer that is read.
const LONGEST: usize = 256 * 1024;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(2);
/// How long a connection that nobody uses is kept.
const KEPT: Duration = Duration::from_secs(20);

/// What bounds it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long a request may take, with the wait for its turn.
    pub timeout: Duration,
    /// How many may be under way at a time; the others wait.
    pub at_once: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), at_once: 16 }
    }
}

/// Why nothing came of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Nobody could be reached, or it went away.
    #[error("Keycloak cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("Keycloak did not answer within {}", humantime::format_duration(*.0))]
    TooLate(Duration),
    /// Its answer is longer than any that is meant for us.
    #[error("an answer of Keycloak's is longer than {LONGEST} bytes")]
    TooLong,
    /// It sends us elsewhere.
    #[error("Keycloak sends us to {0:?}: keycloak.url must be where it answers itself")]
    Redirected(String),
}

/// What came of one.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A client, which keeps its connections. Clones are the same.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    room: Arc<Semaphore>,
    bounds: Bounds,
}

impl Http {
    /// A client that trusts whom this system trusts.
    ///
    /// # Errors
    /// When the system's certificates cannot be read.
    pub(super) fn new(bounds: Bounds) -> std::io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_native_roots()?
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECTING));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT)
            .pool_max_idle_per_host(bounds.at_once)
            .build(connector);
        Ok(Self { client, room: Arc::new(Semaphore::new(bounds.at_once)), bounds })
    }

    /// Posts a form.
    pub(super) async fn post(&self, uri: &Uri, form: String) -> Result<Answer, HttpError> {
        let mut request = Request::new(Full::new(Bytes::from(form)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let timeout = self.bounds.timeout;
        within(timeout, self.ask(request)).await.unwrap_or_else(|Late| Err(HttpError::TooLate(timeout)))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        // Closed by nobody.
        let _place = self.room.acquire().await.map_err(|_| HttpError::Unreachable("this service ends".to_owned()))?;
        let response = self.client.request(request).await.map_err(|error| HttpError::Unreachable(chain(&error)))?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            let to =
                head.headers.get(LOCATION).map_or_else(String::new, |to| String::from_utf8_lossy(to.as_bytes()).into());
            return Err(HttpError::Redirected(to));
        }
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { HttpError::TooLong } else { HttpError::Unreachable(chain(&*error)) }
        })?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// An error with what it came of.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
