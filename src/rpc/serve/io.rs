//! A connection that must soon say which protocol it speaks.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Length of HTTP/2's preface: so many bytes are read to tell the versions apart, and until then
/// no other timeout runs.
const PREFACE: usize = 24;

/// Reads fail when the first bytes do not come in time.
pub(super) struct Prompt<S> {
    /// What was read of the stream before.
    unread: BytesMut,
    stream: S,
    missing: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Prompt<S> {
    /// A connection of which `unread` was read already.
    pub(super) fn new(unread: BytesMut, stream: S, within: Duration) -> Self {
        Self { unread, stream, missing: PREFACE, timer: Some(Box::pin(tokio::time::sleep(within))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = if this.unread.is_empty() {
            Pin::new(&mut this.stream).poll_read(context, buffer)
        } else {
            buffer.put_slice(&this.unread.split_to(this.unread.len().min(buffer.remaining())));
            if this.unread.is_empty() {
                // Its room is not needed any more.
                this.unread = BytesMut::new();
            }
            Poll::Ready(Ok(()))
        };
        let Some(timer) = &mut this.timer else { return polled };
        this.missing = this.missing.saturating_sub(buffer.filled().len().saturating_sub(before));
        if this.missing == 0 {
            this.timer = None;
        } else if polled.is_pending() && timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    /// HTTP/2 writes an answer of up to a KiB in one piece then: with vectored writes, a message of 256 bytes is sent
    /// before the status behind it is written, and a process that is killed in between has answered half.
    fn is_write_vectored(&self) -> bool {
        false
    }
}
