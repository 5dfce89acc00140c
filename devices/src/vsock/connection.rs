//! One connection between a port of the guest and a stream of the host.
//!
//! ```text
//!   client names a port ──► Asked ── RESPONSE ──────────┐
//!                             │                         ▼
//!   guest: REQUEST ──► Brokered ── broker connects ──► Open ── both ends shut, nothing held ──► gone
//!                             │                         │
//!                             └─ refusal, time is up ───┴─ reset, broken promise ──► gone
//! ```
//! Whatever is owed to the guest is a flag, not a packet in a queue: a guest that gives no buffers makes nothing grow.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{Shutdown, shutdown};

use super::credit::Credit;
use super::packet::{Header, Operation, Ports};
use super::spec::{CLOSE_TIMEOUT, MAX_PAYLOAD, OPEN_TIMEOUT, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, WINDOW};
use crate::serve::Vectors;

/// How far a connection has come.
#[derive(Debug)]
enum Stage {
    /// The guest was asked for it by this client.
    Asked(OwnedFd),
    /// The broker was asked for the stream.
    Brokered,
    /// Bytes may flow.
    Open(OwnedFd),
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Stays,
    /// It ends, and the guest is told.
    Reset,
    /// It ends, and the guest knows.
    Gone,
    /// The guest is done with it; the host has yet to take what is held.
    Drains,
}

/// What the guest has yet to be told.
#[derive(Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
    shutdown: u32,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub ports: Ports,
    stage: Stage,
    credit: Credit,
    owed: Owed,
    /// What the guest has sent and the host has not taken; no longer than the window.
    held: VecDeque<u8>,
    /// The host may have bytes, or an end, for the guest.
    readable: bool,
    /// The host had more than there was room for when it was read last.
    pub flows: bool,
    /// The host has closed its end altogether.
    hung_up: bool,
    /// What the guest was told that the host is done with.
    host_shut: u32,
    /// What the guest is done with.
    guest_shut: u32,
    /// The guest has forgotten it.
    draining: bool,
    /// When it ends unless something happens.
    pub deadline: Option<Instant>,
    /// It waits in the line of those that have something for the guest.
    pub in_line: bool,
}

impl Connection {
    /// The guest is to be asked for it.
    pub fn ask(ports: Ports, stream: OwnedFd) -> Self {
        widen(&stream);
        let owed = Owed { request: true, ..Owed::default() };
        Self { owed, ..Self::new(ports, Stage::Asked(stream)) }
    }

    /// The guest asks for it, and so does the device the broker.
    pub fn broker(request: &Header) -> Self {
        let mut connection = Self::new(request.ports, Stage::Brokered);
        connection.credit.heard(request);
        connection
    }

    fn new(ports: Ports, stage: Stage) -> Self {
        Self {
            ports,
            stage,
            credit: Credit::default(),
            owed: Owed::default(),
            held: VecDeque::new(),
            readable: false,
            flows: false,
            hung_up: false,
            host_shut: 0,
            guest_shut: 0,
            draining: false,
            deadline: Some(Instant::now() + OPEN_TIMEOUT),
            in_line: false,
        }
    }

    /// Whether an answer is waited for.
    pub fn waits(&self) -> bool {
        !matches!(self.stage, Stage::Open(_))
    }

    /// Whether the guest has never heard of it.
    pub fn is_unasked(&self) -> bool {
        self.owed.request
    }

    /// The broker has connected.
    pub fn connected(&mut self, stream: OwnedFd) -> Fate {
        if !matches!(self.stage, Stage::Brokered) {
            return Fate::Stays;
        }
        widen(&stream);
        self.stage = Stage::Open(stream);
        self.owed.response = true;
        self.deadline = None;
        Fate::Stays
    }

    /// Takes a packet of the guest; `payload` has the header's length.
    pub fn take(&mut self, header: &Header, payload: &Vectors<'_>) -> Fate {
        self.credit.heard(header);
        match header.operation {
            Operation::Request => Fate::Reset,
            Operation::Response => self.answered(),
            Operation::Reset if self.guest_shut & SHUT_SEND != 0 && !self.held.is_empty() => {
                self.draining = true;
                Fate::Drains
            }
            Operation::Reset => Fate::Gone,
            Operation::Shutdown => self.guest_shuts(header.flags),
            Operation::Data => self.take_data(payload),
            Operation::CreditUpdate => Fate::Stays,
            Operation::CreditRequest => {
                self.owed.credit = true;
                Fate::Stays
            }
        }
    }

    fn answered(&mut self) -> Fate {
        let line = format!("OK {}\n", self.ports.host);
        match std::mem::replace(&mut self.stage, Stage::Brokered) {
            // A fresh stream has room for a line, unless its client has gone.
            Stage::Asked(stream) if rustix::io::write(&stream, line.as_bytes()) == Ok(line.len()) => {
                self.stage = Stage::Open(stream);
                self.deadline = None;
                Fate::Stays
            }
            _ => Fate::Reset,
        }
    }

    fn take_data(&mut self, payload: &Vectors<'_>) -> Fate {
        let Stage::Open(stream) = &self.stage else { return Fate::Reset };
        let promised = self.guest_shut & SHUT_SEND != 0;
        // Cannot truncate: a payload has the length of its header.
        if promised || self.owed.response || !self.credit.receive(payload.len() as u32) {
            return Fate::Reset;
        }
        let mut written = 0;
        if self.held.is_empty() {
            written = match settled(payload.write_to(stream.as_fd())) {
                Ok(count) => count,
                Err(_) => return Fate::Reset,
            };
            self.credit.forward(written);
        }
        if written < payload.len() {
            let (rest, before) = (payload.after(written), self.held.len());
            self.held.resize(before + rest.len(), 0);
            rest.copy_to(&mut self.held.make_contiguous()[before..]);
        }
        Fate::Stays
    }

    fn guest_shuts(&mut self, flags: u32) -> Fate {
        self.guest_shut |= flags & SHUT_BOTH;
        if self.guest_shut & SHUT_RECEIVE != 0 {
            self.readable = false;
            if let Stage::Open(stream) = &self.stage {
                // Whoever still writes is to learn that nobody reads; a client that is gone need not.
                let _ = shutdown(stream, Shutdown::Read);
            }
        }
        if self.held.is_empty() { self.emptied() } else { Fate::Stays }
    }

    /// All that the guest has sent is the host's.
    fn emptied(&mut self) -> Fate {
        self.held = VecDeque::new();
        if self.draining {
            return Fate::Gone;
        }
        if self.guest_shut == SHUT_BOTH {
            return Fate::Reset;
        }
        if let (Stage::Open(stream), true) = (&self.stage, self.guest_shut & SHUT_SEND != 0) {
            let _ = shutdown(stream, Shutdown::Write);
        }
        Fate::Stays
    }

    /// Which events of its stream it wants to hear of, if any.
    pub fn watch(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (stream, mut flags, hang_up) = match &self.stage {
            Stage::Brokered => return None,
            Stage::Asked(stream) => (stream, PollFlags::empty(), true),
            Stage::Open(stream) => {
                let reads = self.host_shut & SHUT_SEND == 0 && self.guest_shut & SHUT_RECEIVE == 0;
                let wanted = reads && !self.readable && !self.draining && self.credit.room() > 0;
                let flags = if wanted { PollFlags::IN } else { PollFlags::empty() };
                let half_shut = self.host_shut == SHUT_SEND || self.guest_shut == SHUT_RECEIVE;
                (stream, flags, half_shut && !self.hung_up)
            }
        };
        flags.set(PollFlags::OUT, !self.held.is_empty());
        // A hang-up is always told: who does not want to hear of it must not look at all.
        (hang_up || !flags.is_empty()).then(|| (stream.as_fd(), flags))
    }

    /// Its stream is ready.
    pub fn ready(&mut self, flags: PollFlags) -> Fate {
        let Stage::Open(stream) = &self.stage else {
            // Only a hang-up was watched for.
            return if self.owed.request { Fate::Gone } else { Fate::Reset };
        };
        self.hung_up |= flags.intersects(PollFlags::HUP | PollFlags::ERR);
        if !self.held.is_empty() {
            match settled(rustix::io::write(stream, self.held.as_slices().0).map_err(io::Error::from)) {
                Ok(count) => {
                    self.held.drain(..count);
                    self.credit.forward(count);
                }
                Err(_) => return Fate::Reset,
            }
            if self.held.is_empty() {
                let fate = self.emptied();
                if fate != Fate::Stays {
                    return fate;
                }
            }
        }
        if self.hung_up && (self.host_shut == SHUT_SEND || self.guest_shut & SHUT_RECEIVE != 0) {
            self.owed.shutdown = SHUT_BOTH;
        } else if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.readable = self.guest_shut & SHUT_RECEIVE == 0 && self.host_shut & SHUT_SEND == 0;
        }
        Fate::Stays
    }

    /// Whether there is something for the guest.
    pub fn has_news(&self) -> bool {
        let Owed { request, response, credit, shutdown } = self.owed;
        let due = credit || (!self.waits() && self.credit.update_due());
        !self.draining
            && (request || response || shutdown != 0 || due || (self.readable && self.credit.room() > 0))
    }

    /// The next packet for the guest, if there is one after all; its payload is in `room`.
    pub fn next_packet(&mut self, room: &Vectors<'_>) -> Result<Option<Header>, Fate> {
        let ports = self.ports;
        let bare = |operation| Header::bare(ports, operation);
        let header = if std::mem::take(&mut self.owed.request) {
            bare(Operation::Request)
        } else if std::mem::take(&mut self.owed.response) {
            bare(Operation::Response)
        } else if let Some(length) = self.read(room)? {
            Header { length, ..bare(Operation::Data) }
        } else if self.owed.shutdown != 0 {
            self.host_shut |= std::mem::take(&mut self.owed.shutdown);
            if self.host_shut == SHUT_BOTH {
                self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
            }
            Header { flags: self.host_shut, ..bare(Operation::Shutdown) }
        } else if std::mem::take(&mut self.owed.credit) || self.credit.update_due() {
            bare(Operation::CreditUpdate)
        } else {
            return Ok(None);
        };
        Ok(Some(self.credit.tell(header)))
    }

    /// Reads from the host into `room`; its end becomes something that is owed.
    fn read(&mut self, room: &Vectors<'_>) -> Result<Option<u32>, Fate> {
        let Stage::Open(stream) = &self.stage else { return Ok(None) };
        let limit = room.len().min(self.credit.room()).min(MAX_PAYLOAD);
        if !self.readable || limit == 0 {
            return Ok(None);
        }
        let read = if limit < room.len() {
            room.first(limit).read_from(stream.as_fd())
        } else {
            room.read_from(stream.as_fd())
        };
        match read {
            Ok(0) => {
                self.readable = false;
                self.owed.shutdown = if self.hung_up { SHUT_BOTH } else { SHUT_SEND };
                Ok(None)
            }
            Ok(count) => {
                // Less than there was room for: all that there was.
                self.flows = count == limit;
                self.readable = self.flows || self.hung_up;
                self.credit.send(count);
                Ok(Some(count as u32))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(_) => Err(Fate::Reset),
        }
    }
}

/// Has the stream hold as much as a guest may send before the host has taken it: else what the guest sends in one go is
/// copied twice.
fn widen(stream: &OwnedFd) {
    // What the host does not allow is held here.
    let _ = set_socket_send_buffer_size(stream, WINDOW as usize);
}

/// A full stream has taken nothing.
fn settled(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
