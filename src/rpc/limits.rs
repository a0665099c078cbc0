//! How much a peer may ask of this process. Every bound has a default that suits a busy service.

use std::time::Duration;

use super::deadline::Deadlines;

/// The bounds of the port that serves calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Longest request message, in bytes: protobuf or JSON.
    pub message_bytes: usize,
    /// Longest list of request headers over HTTP/1.1, in bytes. At least 8 KiB count.
    pub header_bytes: u32,
    /// The same over HTTP/2. Envoy copies a client's `tracestate` into the headers of what it asks: what is
    /// refused here is an error to it, and no denial.
    pub http2_header_bytes: u32,
    /// Calls at a time on one connection; further ones wait at the client.
    pub streams_per_connection: u32,
    /// Connections at a time; further ones are closed at once.
    pub connections: usize,
    /// Calls at a time over all connections; further ones are answered RESOURCE_EXHAUSTED at once.
    /// Calls that need no caller have places of their own beside these.
    pub in_flight: usize,
    /// Streams at a time over all connections (health's Watch, reflection): they may go on for as
    /// long as their connection. Further ones are answered RESOURCE_EXHAUSTED at once.
    pub open_streams: usize,
    /// How long a peer may take to say which protocol it speaks, and over HTTP/1.1 to send the
    /// headers of a request; also how long an HTTP/1.1 connection may idle.
    pub header_timeout: Duration,
    /// How long the message of a call may take to arrive, once its headers have. A stream of
    /// messages has no such bound.
    pub message_time: Duration,
    /// How long a call may take.
    pub deadlines: Deadlines,
}

impl ServerLimits {
    /// Calls at a time of methods that need no caller. Anybody can fill these places: they are
    /// fewer than, and apart from, those of [`in_flight`](Self::in_flight).
    #[must_use]
    pub fn open_in_flight(&self) -> usize {
        (self.in_flight / 4).max(1)
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            message_bytes: 256 * 1024,
            header_bytes: 16 * 1024,
            http2_header_bytes: 256 * 1024,
            streams_per_connection: 256,
            connections: 10_000,
            in_flight: 4096,
            open_streams: 1024,
            header_timeout: Duration::from_secs(10),
            message_time: Duration::from_secs(5),
            deadlines: Deadlines::default(),
        }
    }
}
