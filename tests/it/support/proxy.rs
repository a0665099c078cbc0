//! A TCP proxy of one test, standing for a virtual address and the network before it: it can be cut,
//! fall silent, become slow, and lead to another server. Knows nothing of what passes through.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A proxy that runs until it is dropped, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    control: watch::Sender<Control>,
    runtime: Option<Runtime>,
}

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Everything passes at once.
    Open,
    /// Each piece takes so long, one after the other, in both directions.
    Slow(Duration),
    /// Nothing passes. What was sent meanwhile arrives once it is open again: late, but whole.
    Silent,
    /// The same, for answers alone: the server does what it is asked, and nobody learns of it.
    Unanswered,
}

#[derive(Debug, Clone, Copy)]
struct Control {
    /// Port that new connections lead to.
    target: u16,
    link: Link,
    /// How often all connections were cut.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Proxy {
    /// A proxy before the loopback port `target`.
    pub(crate) fn start(target: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Without waiting: a test may be a task of a runtime itself.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        let (control, watched) = watch::channel(Control { target, link: Link::Open, cuts: 0 });
        runtime.spawn(accept(listener, watched));
        Self { port, control, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another port. Those that are open stay as they are: they go on
    /// talking to the server that they reached.
    pub(crate) fn point_at(&self, target: u16) {
        self.control.send_modify(|control| control.target = target);
    }

    /// Closes every connection that is open now.
    pub(crate) fn cut(&self) {
        self.control.send_modify(|control| control.cuts += 1);
    }

    /// Makes the network so, for connections that are open and those to come.
    pub(crate) fn set(&self, link: Link) {
        self.control.send_modify(|control| control.link = link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Link {
    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Slow(_) => true,
            Self::Silent => false,
            Self::Unanswered => direction == Direction::Requests,
        }
    }
}

async fn accept(listener: TcpListener, control: watch::Receiver<Control>) {
    loop {
        // A connection that was given up before it was accepted is no reason to end.
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, control.clone()));
        }
    }
}

async fn pass(client: TcpStream, control: watch::Receiver<Control>) {
    let Control { target, cuts, .. } = *control.borrow();
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut watched = control.clone();
    let both = async {
        tokio::try_join!(
            pump(from_client, to_server, Direction::Requests, control.clone()),
            pump(from_server, to_client, Direction::Answers, control.clone()),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = watched.wait_for(|now| now.cuts != cuts) => {}
    }
}

/// Passes on what comes, until the end, and then that it is the end.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        let open = control.wait_for(|now| now.link.passes(direction)).await;
        let link = open.map_err(io::Error::other)?.link;
        if let Link::Slow(delay) = link {
            tokio::time::sleep(delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net;

    use super::*;

    /// A server that answers each byte with its own name.
    fn named(name: u8) -> u16 {
        let listener = net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[name]).is_ok() {}
                });
            }
        });
        port
    }

    fn connect(proxy: &Proxy, patience: Duration) -> net::TcpStream {
        let stream = net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream
    }

    /// The next answer; none when the connection was closed.
    fn answer(stream: &mut net::TcpStream) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((stream.read(&mut byte)? == 1).then_some(byte[0]))
    }

    fn ask(stream: &mut net::TcpStream) -> Option<u8> {
        stream.write_all(b"?").unwrap();
        answer(stream).unwrap()
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn open_connections_stay_with_the_old_server_until_they_are_cut() {
        let (a, b) = (named(b'a'), named(b'b'));
        let proxy = Proxy::start(a);
        let mut old = connect(&proxy, LONG);
        assert_eq!(ask(&mut old), Some(b'a'));
        proxy.point_at(b);
        let mut new = connect(&proxy, LONG);
        assert_eq!((ask(&mut old), ask(&mut new)), (Some(b'a'), Some(b'b')));
        proxy.cut();
        assert!(answer(&mut old).is_ok_and(|got| got.is_none()) && answer(&mut new).is_ok_and(|got| got.is_none()));
        assert_eq!(ask(&mut connect(&proxy, LONG)), Some(b'b'));
    }

    #[test]
    fn what_a_silent_link_holds_back_arrives_later() {
        for silent in [Link::Silent, Link::Unanswered] {
            let proxy = Proxy::start(named(b'a'));
            let mut stream = connect(&proxy, Duration::from_millis(200));
            assert_eq!(ask(&mut stream), Some(b'a'));
            proxy.set(silent);
            stream.write_all(b"?").unwrap();
            assert!(answer(&mut stream).is_err(), "an answer came through a silent link");
            proxy.set(Link::Slow(Duration::from_millis(1)));
            stream.set_read_timeout(Some(LONG)).unwrap();
            assert_eq!(answer(&mut stream).unwrap(), Some(b'a'));
            proxy.set(Link::Open);
            assert_eq!(ask(&mut stream), Some(b'a'));
        }
    }
}
