//! One client's connection, as hyper reads and writes it.
//!
//! hyper sees a stream of bytes. Underneath, every read also collects file descriptors and is counted in the
//! [`ledger`](super::ledger); a request that begins and does not end has a time limit (silence between requests has
//! none); and the few answers that hyper words by itself leave in the words of this API.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Sleep;

use super::answer;
use super::ledger::Shared;
use super::receive::receive;
use crate::error::{ApiError, ErrorKind};

/// Bytes of one read.
const READ: usize = 8 * 1024;

/// A client's connection.
pub(super) struct Connection {
    stream: UnixStream,
    ledger: Shared,
    /// How long a request may take to arrive.
    patience: Duration,
    /// When the request that is arriving must be whole.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
    /// Bytes that hyper has handed over and the socket has not taken.
    outbox: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, ledger: Shared, patience: Duration) -> Self {
        Self { stream, ledger, patience, deadline: None, outbox: Vec::new() }
    }

    /// Reads once; what came is noted in the ledger.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.stream.poll_read_ready(cx)?.is_pending() {
                return self.poll_deadline(cx);
            }
            let received = self.stream.try_io(Interest::READABLE, || receive(self.stream.as_fd(), buffer));
            match received {
                Ok(received) => {
                    let mut ledger = self.ledger.lock();
                    ledger.arrive(&buffer[..received.bytes], received.fds, received.truncated);
                    let unfinished = ledger.unfinished();
                    let cut = received.bytes == 0 && ledger.cut_in_head();
                    drop(ledger);
                    self.arm(unfinished);
                    if cut {
                        self.say(
                            ErrorKind::BadRequest,
                            &["Bad Request", "the request ended before its head was whole"],
                        );
                    }
                    return Poll::Ready(Ok(received.bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Starts the clock of a request that has begun to arrive, stops that of one that is whole.
    fn arm(&mut self, unfinished: Option<u64>) {
        match (unfinished, &self.deadline) {
            (Some(request), Some((armed, _))) if request == *armed => {}
            (Some(request), _) => {
                self.deadline = Some((request, Box::pin(tokio::time::sleep(self.patience))));
            }
            (None, _) => self.deadline = None,
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some((_, deadline)) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        self.deadline = None;
        if self.ledger.lock().cut_in_head() {
            self.say(ErrorKind::Timeout, &["Request Timeout", "the request took too long to arrive"]);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says why the connection is about to close, where there is no request that hyper could answer. Best effort: a
    /// client that does not read has only itself to blame.
    fn say(&self, kind: ErrorKind, causes: &[&str]) {
        if self.outbox.is_empty() {
            let _ = self.stream.try_write(&answer::last_words(&ApiError::plain(kind, causes)));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(&self.outbox) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Read for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [0; READ];
        let room = cursor.remaining().min(READ);
        let bytes = ready!(self.get_mut().poll_receive(cx, &mut buffer[..room]))?;
        cursor.put_slice(&buffer[..bytes]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        // Taken whole, so that an answer's first line is never in two pieces here.
        this.outbox.extend_from_slice(&answer::in_our_words(bytes));
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        // The other side may be gone already; there is nobody to tell then.
        let _ = rustix::net::shutdown(&this.stream, rustix::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
