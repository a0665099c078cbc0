//! `[server]`: where it listens, and how much it takes on.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::setting::section;
use super::types::Number;
use crate::rpc::deadline::Deadlines;
use crate::rpc::limits::ServerLimits;
use crate::rpc::serve::ServeConfig;

section! {
    /// Where the service listens, and how much it takes on at once.
    ["server"] pub struct Server {
        /// Address of the API: gRPC and HTTP together.
        listen: SocketAddr = "127.0.0.1:7413",
        /// Address of `/metrics`, `/livez` and `/readyz`, which ask nobody who they are: keep it inside.
        ops_listen: SocketAddr = "127.0.0.1:7414",
        /// Allows `listen` to be reachable from other machines without TLS. Keys and tokens cross
        /// the network in clear text then: only behind a proxy or mesh that encrypts.
        insecure: bool = false,
        /// Threads that serve. 0: one for each core that the process may use.
        workers: Number<0, 1024> = 0,
        /// How long calls may go on after SIGTERM before they are cut off.
        drain: Duration = "10s",
        /// Largest request, in bytes.
        max_message_bytes: Number<4_096, 16_777_216> = 262_144,
        /// Largest sum of a request's headers over HTTP/1.1, in bytes.
        max_header_bytes: Number<4_096, 1_048_576> = 16_384,
        /// The same over HTTP/2, which gRPC is. More than Envoy takes of its clients (`max_request_headers_kb`, 60 KiB
        /// unless it is set): an Envoy that traces copies a client's `tracestate` into the headers of what it
        /// asks, and takes a refusal of those for an outage, not for a denial.
        max_http2_header_bytes: Number<4_096, 16_777_216> = 262_144,
        /// Calls at once on one connection.
        max_streams: Number<1, 65_536> = 256,
        /// Connections at once.
        max_connections: Number<1, 1_000_000> = 10_000,
        /// Calls at once; those beyond are refused with RESOURCE_EXHAUSTED.
        max_in_flight: Number<1, 1_000_000> = 4_096,
        /// Time that a call has if the caller sets no deadline.
        default_deadline: Duration = "15s",
        /// Most time that a call has, whatever deadline the caller sets.
        max_deadline: Duration = "60s",
    }
    check |server, reader| {
        if !server.listen.ip().is_loopback() && !server.insecure {
            reader.refuse(
                "listen",
                format!("is {}, which other machines may reach, and there is no TLS", server.listen),
                "listen on 127.0.0.1, or set server.insecure = true behind a proxy or mesh that encrypts",
            );
        }
        if server.default_deadline > server.max_deadline {
            reader.refuse("default_deadline", "is longer than max_deadline", "shorten it, or raise max_deadline");
        }
        if server.listen == server.ops_listen && server.listen.port() != 0 {
            reader.refuse("ops_listen", "is the same as server.listen", "give it a port of its own");
        }
    }
}

impl Server {
    /// The bounds, as the API takes them.
    #[must_use]
    pub fn limits(&self) -> ServerLimits {
        ServerLimits {
            message_bytes: size(self.max_message_bytes.get()),
            header_bytes: self.max_header_bytes.get(),
            http2_header_bytes: self.max_http2_header_bytes.get(),
            streams_per_connection: self.max_streams.get(),
            connections: size(self.max_connections.get()),
            in_flight: size(self.max_in_flight.get()),
            deadlines: Deadlines { default: self.default_deadline, max: self.max_deadline },
            ..ServerLimits::default()
        }
    }

    /// How to serve.
    #[must_use]
    pub fn serving(&self) -> ServeConfig {
        ServeConfig {
            workers: NonZeroUsize::new(size(self.workers.get())),
            drain: self.drain,
            ..ServeConfig::default()
        }
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
