//! The host's end of a console: where output goes, where input comes from, and what happens when nobody is there.
//!
//! ```text
//!  guest ──► Backlog (bounded; what does not fit is dropped) ──► sink: file, terminal, client of the socket
//!  guest ◄── input (bounded; read only when the guest has taken the last of it) ◄── source
//! ```
//! No read or write here waits. A descriptor that is shared with other programs (a terminal) was opened anew for us,
//! so that not to wait is our own affair.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::SendFlags;
use tracing::{info, warn};

use super::spec::{BACKLOG, INPUT};

/// Where a console leads.
#[derive(Debug)]
pub enum Ends {
    /// Nowhere: output is thrown away, there is no input.
    Null,
    /// To open files; neither of them makes us wait.
    Files {
        /// Where input comes from.
        input: Option<File>,
        /// Where output goes.
        output: Option<File>,
    },
    /// To whoever connected last; output while nobody is there is thrown away.
    Socket(UnixListener),
}

/// The ends in use.
pub(super) struct Line {
    source: Option<File>,
    sink: Option<File>,
    listener: Option<UnixListener>,
    client: Option<UnixStream>,
    backlog: VecDeque<u8>,
    /// Output was lost since the reader was last abreast.
    losing: bool,
    input: VecDeque<u8>,
}

impl Line {
    pub(super) fn new(ends: Ends) -> Self {
        let (source, sink, listener) = match ends {
            Ends::Null => (None, None, None),
            Ends::Files { input, output } => (input, output, None),
            Ends::Socket(listener) => (None, None, Some(listener)),
        };
        let (backlog, input) = (VecDeque::new(), VecDeque::new());
        Self { source, sink, listener, client: None, backlog, losing: false, input }
    }

    /// Where clients connect.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Where input comes from, if there is room for some.
    pub(super) fn thirsty(&self) -> Option<BorrowedFd<'_>> {
        let source = self.client.as_ref().map(AsFd::as_fd).or(self.source.as_ref().map(AsFd::as_fd));
        source.filter(|_| self.input.is_empty())
    }

    /// Where output goes, if some waits.
    pub(super) fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.sink().filter(|_| !self.backlog.is_empty())
    }

    /// Input that the guest has not taken yet.
    pub(super) fn input(&mut self) -> &mut VecDeque<u8> {
        &mut self.input
    }

    /// Takes output of the guest; what does not fit is dropped.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.sink().is_none() {
            return;
        }
        let taken = bytes.len().min(BACKLOG - self.backlog.len());
        self.backlog.extend(&bytes[..taken]);
        if taken < bytes.len() && !std::mem::replace(&mut self.losing, true) {
            warn!("whoever reads the console is too slow: output is lost");
        }
    }

    /// Writes what can be written.
    pub(super) fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let (chunk, _) = self.backlog.as_slices();
            let written = match (&self.client, &self.sink) {
                (Some(client), _) => {
                    rustix::net::send(client, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                (None, Some(sink)) => rustix::io::write(sink, chunk),
                (None, None) => Ok(chunk.len()),
            };
            match written {
                Ok(count) if count > 0 => {
                    self.backlog.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => self.lose_sink(written.err()),
            }
        }
        self.losing = false;
        // A guest that has said much once need not cost memory for ever.
        self.backlog.shrink_to(INPUT);
    }

    /// Reads what there is, up to as much as may wait.
    pub(super) fn fill(&mut self) {
        let Some(source) = self.thirsty() else { return };
        let mut bytes = [0; INPUT];
        match rustix::io::retry_on_intr(|| rustix::io::read(source, &mut bytes[..])) {
            Ok(count) if count > 0 => self.input.extend(&bytes[..count]),
            Err(Errno::AGAIN) => {}
            // The end of input is no reason to stop output, but for a client that has left.
            Ok(_) | Err(_) if self.client.is_some() => self.part(),
            Ok(_) | Err(_) => self.source = None,
        }
    }

    /// Takes the next client; the one before is hung up on, and what it had not read yet is forgotten.
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match rustix::net::accept_with(
            listener,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        ) {
            Ok(client) => {
                info!("a client has connected to the console");
                self.part();
                self.client = Some(UnixStream::from(client));
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                warn!(%error, "no client can connect to the console any more");
                self.listener = None;
            }
        }
    }

    fn sink(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd).or(self.sink.as_ref().map(AsFd::as_fd))
    }

    fn part(&mut self) {
        self.client = None;
        self.backlog.clear();
        self.input.clear();
    }

    fn lose_sink(&mut self, error: Option<Errno>) {
        warn!(?error, "whoever read the console is gone: output is lost");
        if self.client.is_some() {
            self.part();
        } else {
            self.sink = None;
            self.backlog.clear();
        }
    }
}
