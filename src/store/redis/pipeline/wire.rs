//! The two ends of a connection under its lock: what goes out, what came in, and who waits. Wakes nobody
//! but the driver itself: who is to be woken is handed out, for when the lock is released.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::Transport;
use crate::store::redis::failure::Failure;
use crate::store::redis::resp::{Frame, Parser};

/// Bytes read at once, unless a longer string is on its way.
const CHUNK: usize = 16 << 10;
/// What is kept of a buffer that had to grow.
pub(super) const KEPT: usize = 256 << 10;

/// The two ends of a connection, and who waits between them.
#[derive(Default)]
pub(super) struct Wire {
    transport: Option<Box<dyn Transport>>,
    /// Wakes the driver; none before it ran for the first time.
    pub(super) driver: Option<Waker>,
    /// Commands that were not written yet, but for the first `written` bytes.
    out: Vec<u8>,
    written: usize,
    /// Whether the transport itself holds something back.
    unflushed: bool,
    /// Calls in the order of their commands. The first `answered` of them have their replies.
    pub(super) calls: VecDeque<Waiting>,
    answered: usize,
    /// The number of the first one.
    first: u64,
    /// For when the timer is to be set.
    pub(super) timer: Option<Duration>,
    /// The connection is over.
    pub(super) failed: Option<Failure>,
    /// Nobody has it any more.
    pub(super) closed: bool,
    /// What was read: the bytes from `from` to `to`.
    pub(super) buffer: Vec<u8>,
    from: usize,
    to: usize,
    parser: Parser,
}

pub(super) struct Waiting {
    ends: Duration,
    pub(super) caller: Caller,
}

pub(super) enum Caller {
    /// For the reply.
    Waits(Option<Waker>),
    /// Has an answer to take.
    Has(Result<Value, Failure>),
    /// Took it, or went away.
    Left,
}

impl Wire {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport: Some(transport), ..Self::default() }
    }

    /// The call with a number, while its place is held.
    pub(super) fn call(&mut self, number: u64) -> Option<&mut Waiting> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.calls.get_mut(place)
    }

    /// Removes what is done with from the front; answers how many calls that were.
    pub(super) fn clear(&mut self) -> usize {
        let mut free = 0;
        while self.answered > 0 && matches!(self.calls.front(), Some(Waiting { caller: Caller::Left, .. })) {
            self.calls.pop_front();
            self.first += 1;
            self.answered -= 1;
            free += 1;
        }
        free
    }

    /// Puts commands, which come to so many replies, behind the others; answers the number of the call that
    /// gets the first one. Nothing comes between them.
    pub(super) fn submit(&mut self, command: &[u8], replies: usize, ends: Duration) -> u64 {
        let alone = self.answered == self.calls.len() && self.out.is_empty() && !self.unflushed;
        let number = self.first + self.calls.len() as u64;
        for _ in 0..replies {
            self.calls.push_back(Waiting { ends, caller: Caller::Waits(None) });
        }
        let written = if alone { self.write_now(command) } else { 0 };
        self.forget_written();
        self.out.extend_from_slice(command.get(written..).unwrap_or_default());
        let is_next = self.timer.is_none_or(|timer| ends < timer);
        if is_next {
            self.timer = Some(ends);
        }
        if (is_next || !self.out.is_empty() || self.unflushed)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
        number
    }

    /// Gives back what was written of the commands, once that is much: under steady load there is always
    /// something that was not.
    fn forget_written(&mut self) {
        if self.written >= KEPT {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Writes what the transport takes at once; the driver sees to the rest, and to errors.
    fn write_now(&mut self, command: &[u8]) -> usize {
        let (Some(transport), Some(driver)) = (&mut self.transport, &self.driver) else { return 0 };
        let mut context = Context::from_waker(driver);
        let Poll::Ready(Ok(written)) = Pin::new(&mut *transport).poll_write(&mut context, command) else { return 0 };
        self.unflushed = !matches!(Pin::new(transport).poll_flush(&mut context), Poll::Ready(Ok(())));
        written
    }

    /// Writes what waits.
    pub(super) fn write(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(transport) = &mut self.transport else { return Ok(()) };
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *transport).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(gone()),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Err(broken(error)),
                Poll::Pending => return Ok(()),
            }
            self.unflushed = true;
        }
        self.written = 0;
        self.out.clear();
        self.out.shrink_to(KEPT);
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(transport).poll_flush(context)
        {
            flushed.map_err(broken)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Reads what there is, and hands it to those who wait for it.
    pub(super) fn read(&mut self, context: &mut Context<'_>, woken: &mut Vec<Waker>) -> Result<bool, Failure> {
        let mut heard = false;
        loop {
            self.make_room();
            let Some(transport) = &mut self.transport else { return Ok(heard) };
            let mut space = ReadBuf::new(self.buffer.get_mut(self.to..).unwrap_or_default());
            match Pin::new(transport).poll_read(context, &mut space) {
                Poll::Ready(Ok(())) if space.filled().is_empty() => return Err(gone()),
                Poll::Ready(Ok(())) => self.to += space.filled().len(),
                Poll::Ready(Err(error)) => return Err(broken(error)),
                Poll::Pending => return Ok(heard),
            }
            while let Some(frame) = self.frame()? {
                heard = true;
                self.deliver(frame, woken)?;
            }
        }
    }

    fn make_room(&mut self) {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.buffer.len() > KEPT {
                self.buffer = Vec::new();
            }
        } else if self.to == self.buffer.len() {
            // The string that is not complete moves to the front; if it is there, it needs more.
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        if self.to == self.buffer.len() {
            // Bounded by what the parser accepts as the length of one string.
            self.buffer.resize((2 * self.buffer.len()).max(CHUNK), 0);
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>, Failure> {
        let bytes = self.buffer.get(self.from..self.to).unwrap_or_default();
        let (read, frame) = self.parser.read(bytes).map_err(|malformed| {
            Failure::Broken(format!("it answered {}; check that store.url leads to a Redis", malformed.0))
        })?;
        self.from += read;
        Ok(frame)
    }

    fn deliver(&mut self, frame: Frame, woken: &mut Vec<Waker>) -> Result<(), Failure> {
        let value = match frame {
            Frame::Push => return Ok(()),
            Frame::Reply(value) => value,
            Frame::Flawed(value) => match value.extract_error() {
                Ok(value) => value,
                Err(error) => return self.answer(Err(Failure::of(&error)), woken),
            },
        };
        let answer = match value {
            Value::ServerError(error) => Err(Failure::of(&RedisError::from(error))),
            value => Ok(value),
        };
        self.answer(answer, woken)
    }

    fn answer(&mut self, answer: Result<Value, Failure>, woken: &mut Vec<Waker>) -> Result<(), Failure> {
        let Some(call) = self.calls.get_mut(self.answered) else {
            return Err(Failure::Broken("it answered what nobody had asked".to_owned()));
        };
        self.answered += 1;
        if let Caller::Waits(waker) = &mut call.caller {
            woken.extend(waker.take());
            call.caller = Caller::Has(answer);
        }
        Ok(())
    }

    /// Tells those whose time is up, and for when the timer is to be set next.
    pub(super) fn expire(&mut self, until: Duration, woken: &mut Vec<Waker>) -> bool {
        let (mut late, mut next) = (false, None::<Duration>);
        for call in self.calls.iter_mut().skip(self.answered) {
            let Caller::Waits(waker) = &mut call.caller else { continue };
            if call.ends <= until {
                woken.extend(waker.take());
                call.caller = Caller::Has(Err(Failure::TimedOut));
                late = true;
            } else {
                next = Some(next.map_or(call.ends, |next| next.min(call.ends)));
            }
        }
        self.timer = next;
        late
    }

    /// Ends the connection; who waits gets `failure`.
    pub(super) fn fail(&mut self, failure: Failure, woken: &mut Vec<Waker>) -> Option<Box<dyn Transport>> {
        for call in self.calls.iter_mut().skip(self.answered) {
            if let Caller::Waits(waker) = &mut call.caller {
                woken.extend(waker.take());
                call.caller = Caller::Has(Err(failure.clone()));
            }
        }
        self.answered = self.calls.len();
        self.failed.get_or_insert(failure);
        self.out = Vec::new();
        self.buffer = Vec::new();
        (self.from, self.to) = (0, 0);
        self.transport.take()
    }
}

fn broken(error: std::io::Error) -> Failure {
    Failure::of(&RedisError::from(error))
}

pub(super) fn gone() -> Failure {
    Failure::Broken("the connection was closed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Takes a thousand bytes, then nothing until it is asked again.
    #[derive(Default)]
    struct Slow {
        full: bool,
    }

    impl tokio::io::AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.full = !self.full;
            if self.full { Poll::Ready(Ok(bytes.len().min(1000))) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl tokio::io::AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn what_was_written_is_given_back_though_there_is_always_something_that_was_not() {
        let mut wire = Wire::new(Box::new(Slow::default()));
        let mut context = Context::from_waker(Waker::noop());
        let (command, mut given, mut largest) = ([7; 1100], 0, 0);
        for _ in 0..3000 {
            wire.submit(&command, 1, Duration::from_secs(1));
            given += command.len();
            wire.write(&mut context).unwrap();
            largest = largest.max(wire.out.len());
        }
        let unwritten = wire.out.len() - wire.written;
        assert!(unwritten > 0 && given - unwritten > 8 * KEPT, "{unwritten} of {given}");
        assert!(largest <= unwritten + KEPT + 2 * command.len(), "{largest} bytes for {unwritten}");
    }
}
