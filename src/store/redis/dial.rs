//! From an address to a connection that may be used: the transport, then who we are, which database,
//! and what we are called. Knows nothing of when to connect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo, RedisError};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::failure::Failure;
use super::pipeline::{Connection, Span, Transport};
use super::resp::write_command;
use crate::clock::Clock;

/// Whether this version knows how to reach an address.
pub(super) fn check(address: &ConnectionAddr) -> Result<(), Failure> {
    match address {
        ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(..) => Ok(()),
        _ => Err(Failure::of(&RedisError::from(unsupported()))),
    }
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this version speaks neither TLS nor anything but TCP and Unix sockets")
}

/// Connects to `info` within `span`.
pub(super) async fn dial(info: &ConnectionInfo, clock: &Arc<dyn Clock>, span: Span) -> Result<Connection, Failure> {
    let transport = transport(info.addr()).await.map_err(|error| Failure::of(&RedisError::from(error)))?;
    let connection = Connection::new(transport, Arc::clone(clock));
    greet(&connection, info, span).await?;
    Ok(connection)
}

async fn transport(address: &ConnectionAddr) -> io::Result<Box<dyn Transport>> {
    match address {
        ConnectionAddr::Tcp(host, port) => {
            let mut addresses = lookup_host((host.as_str(), *port)).await?.peekable();
            if addresses.peek().is_none() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
            }
            // All at once: one that does not answer must not use up the time of the others.
            let (stream, _) = select_ok(addresses.map(|address| Box::pin(tcp(address)))).await?;
            Ok(Box::new(stream))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err(unsupported()),
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Without this a small command waits for the acknowledgement of the one before it.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Says who we are.
async fn greet(connection: &Connection, info: &ConnectionInfo, span: Span) -> Result<(), Failure> {
    let settings = info.redis_settings();
    let mut hello = vec!["HELLO", "3"];
    if let Some(password) = settings.password() {
        hello.extend(["AUTH", settings.username().unwrap_or("default"), password]);
    }
    let db = settings.db().to_string();
    let name = ["CLIENT", "SETINFO", "LIB-NAME", settings.lib_name().unwrap_or("keyclasp")];
    let version = ["CLIENT", "SETINFO", "LIB-VER", settings.lib_ver().unwrap_or(env!("CARGO_PKG_VERSION"))];
    let say = |words: &[&str]| {
        let mut command = Vec::new();
        write_command(&mut command, words.iter().map(|word| word.as_bytes()));
        let connection = connection.clone();
        async move { connection.call(&command, span).await }
    };
    let select = async {
        match settings.db() {
            0 => Ok(()),
            _ => say(&["SELECT", &db]).await.map(drop),
        }
    };
    // One round trip: each is sent when it is first polled, and they are polled in this order.
    let (hello, select, name, version) = tokio::join!(biased; say(&hello), select, say(&name), say(&version));
    hello.map_err(|failure| match failure {
        // The text of the server, or of what stands before it, may repeat what it did not understand,
        // which has the password in it.
        Failure::Plain(text) if text.to_ascii_lowercase().contains("unknown command") => {
            Failure::TooOld("it does not know HELLO".to_owned())
        }
        Failure::Plain(text) | Failure::Refused(text) | Failure::NotInCharge(text) | Failure::Alone(text)
            if settings.password().is_some_and(|password| text.contains(password)) =>
        {
            Failure::Refused("it refuses HELLO, and its answer repeats the password".to_owned())
        }
        other => other,
    })?;
    select?;
    // Redis has these since 7.2; older ones refuse them, and that is all right.
    for outcome in [name, version] {
        if let Err(failure) = outcome
            && failure.is_of_the_connection()
        {
            return Err(failure);
        }
    }
    Ok(())
}

/// How long connecting may take, from now on.
pub(super) fn within(clock: &dyn Clock, time: Duration) -> Span {
    let now = clock.elapsed();
    Span { now, ends: now + time }
}
