//! Requests that need little of a gateway: what a proxy asks about each request that it holds has no body, says who asks
//! by where it comes from, and is answered at one path. Such a request is answered where it lies in its
//! connection's buffer. It has the same place among those in flight, the same bound in time, the same counts and the
//! same decision as one that goes the long way; a test asks both ways.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Collected};
use tonic::body::Body;

use super::endpoint::{Served, Unserved, counted};
use super::{Connection, Peer};
use crate::clock::Clock;
use crate::rpc::ascii;
use crate::rpc::auth::Caller;
use crate::rpc::proxy::Field;

/// An answer in the making.
pub type LeanAnswering<'a> = Pin<Box<dyn Future<Output = LeanAnswer> + Send + 'a>>;

/// An answer to such a request.
#[derive(Debug)]
pub struct LeanAnswer {
    /// Its status.
    pub status: StatusCode,
    /// The status as which it is counted.
    pub counts_as: StatusCode,
    /// What it says beside those fields that all answers have.
    pub fields: Lines,
    /// Its body.
    pub body: Bytes,
}

/// Header fields as HTTP/1.1 writes them, a line each (RFC 9112, section 5).
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Bytes of those of a usual answer.
    const USUAL: usize = 512;

    /// None, with room for those of a usual answer.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(Self::USUAL))
    }

    /// Adds one, unless `value` is none that a field can have.
    pub fn add(&mut self, name: &HeaderName, value: &[u8]) {
        // All others end the line, or the text in some program (RFC 9110, section 5.5).
        let fits = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        if ascii::is_printable(value) || value.iter().all(fits) {
            for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
                self.0.extend_from_slice(part);
            }
        }
    }

    /// Adds one whose value is visible ASCII and spaces. `name` ends with a colon and a space.
    pub(in crate::rpc) fn add_visible(&mut self, name: &'static str, value: &str) {
        debug_assert!(ascii::is_printable(value.as_bytes()), "{name}{value:?}");
        // Room for all of it at once.
        self.0.reserve(name.len() + value.len() + 2);
        for part in [name, value, "\r\n"] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// The lines, each with its end.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&HeaderMap> for Lines {
    fn from(headers: &HeaderMap) -> Self {
        let mut lines = Self::new();
        for (name, value) in headers {
            lines.add(name, value.as_bytes());
        }
        lines
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a request held beside a key may be a secret too.
        f.debug_tuple("Lines").field(&self.0.len()).finish()
    }
}

/// Answers such requests of one connection.
pub trait LeanHandler: Send {
    /// Answers one, by its query as it came, which need not be that of a URI, and its header fields, whose names are in
    /// lower case. None: it has to go the long way.
    fn answer<'a>(&'a mut self, query: &str, fields: &'a [Field<'a>], caller: &'a Caller) -> Option<LeanAnswering<'a>>;
}

/// The endpoint that a connection may ask in this way.
pub struct Lean {
    peer: Arc<Peer>,
    served: Arc<Served>,
    caller: Caller,
    handler: Box<dyn LeanHandler>,
    answered_at: Duration,
}

impl Connection {
    /// The endpoint that this connection may ask in this way, if there is one.
    #[must_use]
    pub fn lean(&self) -> Option<Lean> {
        let endpoints = self.peer.gateway.endpoints.values();
        endpoints.into_iter().find_map(|served| {
            let (caller, handler) = (served.known_peer(&self.peer)?, served.lean()?);
            let answered_at = self.peer.shared().clock.elapsed();
            Some(Lean { peer: Arc::clone(&self.peer), served: Arc::clone(served), caller, handler, answered_at })
        })
    }
}

impl Lean {
    /// The path that is asked; requests for other ones go the long way.
    #[must_use]
    pub fn path(&self) -> &str {
        self.served.path()
    }

    /// The clock by which it goes.
    pub(in crate::rpc) fn clock(&self) -> &dyn Clock {
        &*self.peer.shared().clock
    }

    /// When the last answer was made, by the clock's `elapsed`; before the first one, when the connection was.
    pub(in crate::rpc) const fn answered_at(&self) -> Duration {
        self.answered_at
    }

    /// Answers a request for it without a body. None: it has to go the long way; nothing was done.
    pub(in crate::rpc) async fn answer(&mut self, query: &str, fields: &[Field<'_>]) -> Option<LeanAnswer> {
        let shared = self.peer.shared();
        let started = shared.clock.elapsed();
        let (handler, caller) = (&mut self.handler, &self.caller);
        let asks = move || {
            let handler = handler;
            handler.answer(query, fields, caller)
        };
        // Should it panic, the long way knows what to do.
        let answering = catch_unwind(AssertUnwindSafe(asks)).ok()??;
        let refused = |unserved: Unserved| {
            // As the long way has them; this way takes no other ones.
            let uri = Uri::try_from(format!("{}?{query}", self.served.path())).unwrap_or_default();
            whole(self.served.refuse(&uri, Some(&copied(fields)), &unserved))
        };
        let mut ticket = match self.served.ticket(&self.peer, started) {
            Ok(ticket) => ticket,
            Err(unserved) => {
                let answer = refused(unserved).await;
                self.answered_at = self.served.count(&self.peer, started, answer.counts_as);
                return Some(answer);
            }
        };
        let answer = match self.served.bounded(shared.limits.deadlines.default, answering).await {
            Ok(answer) => answer,
            Err(unserved) => refused(unserved).await,
        };
        self.answered_at = ticket.count(answer.counts_as);
        Some(answer)
    }
}

/// A refusal, whose body was made before.
async fn whole(mut response: Response<Body>) -> LeanAnswer {
    let (status, counts_as) = (response.status(), counted(&response));
    // All have one, and it is the same.
    response.headers_mut().remove(CACHE_CONTROL);
    let fields = Lines::from(response.headers());
    let body = response.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    LeanAnswer { status, counts_as, fields, body }
}

impl fmt::Debug for Lean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lean").field("path", &self.path()).finish_non_exhaustive()
    }
}

fn copied(fields: &[Field<'_>]) -> HeaderMap {
    let field = |field: &Field<'_>| {
        Some((HeaderName::from_bytes(field.name).ok()?, HeaderValue::from_bytes(field.value).ok()?))
    };
    fields.iter().filter_map(field).collect()
}
