//! A gRPC client that costs little: HTTP/2 frames by hand, so that the server under test is the
//! bottleneck and not the client. A tonic client needs more CPU for a call than the servers here.
//!
//! It sends each header block as a real client does: in full the first time, as indexes into the
//! connection's table from then on. Of an answer it looks at the message alone: an error of gRPC has
//! none. What it does not know how to handle is an error of the run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// END_STREAM on DATA and HEADERS, ACK on SETTINGS and PING.
const END: u8 = 1;
const END_HEADERS: u8 = 4;
const LARGEST_WINDOW: u32 = i32::MAX.unsigned_abs();
const FIRST_WINDOW: u32 = 65_535;

/// `:method POST`, `:scheme http`, and the six entries of [`first_block`], the last one first.
const INDEXED: [u8; 8] = [0x83, 0x86, 0x80 | 67, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

/// A connection on which one method is called again and again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
    next_stream: u32,
    /// Bytes of messages that the server will still take.
    window: i64,
    /// Bytes of messages that came and were not credited to the server yet.
    owed: u32,
    pending: VecDeque<Pending>,
    /// How the message of a right answer begins.
    begins: [u8; 2],
    /// Calls that were answered with an error. None: there may be none.
    refused: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    stream: u32,
    sent: Duration,
    answered: bool,
}

impl Connection {
    /// Connects, and makes the first call. The message of each answer must begin with `begins`.
    pub(crate) async fn open(
        address: SocketAddr,
        path: &str,
        token: &str,
        begins: [u8; 2],
        may_be_refused: bool,
        message: &[u8],
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("{address} does not answer"))?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            input: BytesMut::with_capacity(1 << 18),
            output: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            next_stream: 1,
            window: FIRST_WINDOW.into(),
            owed: 0,
            pending: VecDeque::new(),
            begins,
            refused: may_be_refused.then_some(0),
        };
        // No pushes; as many bytes to each stream as there can be.
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend(LARGEST_WINDOW.to_be_bytes());
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.frame(WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - FIRST_WINDOW).to_be_bytes());
        let block = first_block(path, &address.to_string(), token);
        connection.send(&block, message, Duration::ZERO);
        while connection.in_flight() > 0 {
            connection.flush().await?;
            connection.receive().await?;
            connection.completed(|_| {})?;
        }
        Ok(connection)
    }

    /// Calls that were answered with an error.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.unwrap_or_default()
    }

    /// Adds a call to what the next [`Self::flush`] writes.
    pub(crate) fn call(&mut self, message: &[u8], now: Duration) {
        self.send(&INDEXED, message, now);
    }

    /// Calls that were not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Writes what waits.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Waits until something comes.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.input).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// Reads what came; `done` is told of each answered call when it was sent.
    pub(crate) fn completed(&mut self, mut done: impl FnMut(Duration)) -> anyhow::Result<()> {
        let mut input = std::mem::take(&mut self.input);
        while let Some((frame, len)) = Frame::read(&input) {
            if let Some(sent) = self.take(&frame)? {
                done(sent);
            }
            input.advance(len);
        }
        self.input = input;
        Ok(())
    }

    /// One frame; when the call is over, when it was sent.
    fn take(&mut self, frame: &Frame<'_>) -> anyhow::Result<Option<Duration>> {
        match frame.kind {
            DATA => {
                self.owed += u32::try_from(frame.payload.len())?;
                if self.owed > LARGEST_WINDOW / 2 {
                    let owed = std::mem::take(&mut self.owed);
                    self.frame(WINDOW_UPDATE, 0, 0, &owed.to_be_bytes());
                }
                let pending = self.pending.iter_mut().find(|pending| pending.stream == frame.stream);
                let pending = pending.context("an answer to no call")?;
                // Not compressed, a length, then the message, whose first bytes say what it is.
                if let (false, [0, _, _, _, _, first, second, ..]) = (pending.answered, frame.payload) {
                    let begins = [*first, *second];
                    ensure!(begins == self.begins, "an answer begins with {begins:?} instead of {:?}", self.begins);
                    pending.answered = true;
                }
                ensure!(frame.flags & END == 0, "an answer without a status");
                Ok(None)
            }
            HEADERS if frame.flags & END == 0 => Ok(None),
            HEADERS => {
                let place = self.pending.iter().position(|pending| pending.stream == frame.stream);
                let pending = place.and_then(|place| self.pending.remove(place)).context("a status of no call")?;
                match &mut self.refused {
                    Some(refused) if !pending.answered => *refused += 1,
                    _ => ensure!(pending.answered, "a call was answered with an error, or without a message"),
                }
                Ok(Some(pending.sent))
            }
            SETTINGS if frame.flags & END == 0 => {
                self.frame(SETTINGS, END, 0, &[]);
                Ok(None)
            }
            PING if frame.flags & END == 0 => {
                self.frame(PING, END, 0, frame.payload);
                Ok(None)
            }
            WINDOW_UPDATE => {
                // A stream's own window is never the bound: its one message is small.
                if let (0, Some(more)) = (frame.stream, frame.payload.first_chunk()) {
                    self.window += i64::from(u32::from_be_bytes(*more));
                }
                Ok(None)
            }
            SETTINGS | PING => Ok(None),
            RST_STREAM => bail!("a call was reset: {:?}", frame.payload),
            GOAWAY => bail!("the server said goodbye: {:?}", String::from_utf8_lossy(frame.payload)),
            kind => bail!("a frame of kind {kind}"),
        }
    }

    fn send(&mut self, block: &[u8], message: &[u8], now: Duration) {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.frame(HEADERS, END_HEADERS, stream, block);
        self.frame(DATA, END, stream, message);
        self.window -= i64::try_from(message.len()).unwrap_or(i64::MAX);
        self.pending.push_back(Pending { stream, sent: now, answered: false });
    }

    /// Whether the server will take another message of `len` bytes.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.window >= i64::try_from(len).unwrap_or(i64::MAX)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, len @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.output.extend(len);
        self.output.extend([kind, flags]);
        self.output.extend(stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `input` and its whole length.
    fn read(input: &'a [u8]) -> Option<(Self, usize)> {
        let (head, rest) = input.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, w, x, y, z] = *head;
        let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let stream = u32::from_be_bytes([w, x, y, z]) & LARGEST_WINDOW;
        Some((Self { kind, flags, stream, payload: rest.get(..len)? }, 9 + len))
    }
}

/// A message as a frame of gRPC holds it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The headers of a call, written out, each to be remembered under an index (RFC 7541, 6.2.1).
fn first_block(path: &str, authority: &str, token: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    // Names by their index in the static table; `te` is not in it.
    for (name, value) in [
        (4, path),
        (1, authority),
        (0, "trailers"),
        (31, "application/grpc"),
        (58, "keyclasp-bench/1"),
        (23, &format!("Bearer {token}")),
    ] {
        block.push(0x40 | name);
        if name == 0 {
            text(&mut block, "te");
        }
        text(&mut block, value);
    }
    block
}

/// A string without Huffman coding; its length has a prefix of seven bits.
fn text(block: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    if len < 127 {
        block.push(u8::try_from(len).unwrap_or_default());
    } else {
        block.push(127);
        len -= 127;
        while len >= 128 {
            block.push(u8::try_from(len % 128).unwrap_or_default() | 128);
            len /= 128;
        }
        block.push(u8::try_from(len).unwrap_or_default());
    }
    block.extend_from_slice(text.as_bytes());
}
