//! All connections: found by token and by ports, and the line of those that have something for the guest.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::PollFlags;

use super::connection::{Connection, Fate};
use super::packet::{Header, Operation, Ports};
use super::spec::{FIRST_HOST_PORT, MAX_CONNECTIONS, MAX_REFUSALS, MAX_WAITING};
use crate::serve::{Vectors, Watch};

/// The connections of one guest.
#[derive(Debug)]
pub(super) struct Table {
    connections: BTreeMap<u64, Connection>,
    by_ports: BTreeMap<Ports, u64>,
    line: VecDeque<u64>,
    refusals: VecDeque<Ports>,
    next_port: u32,
}

impl Table {
    /// No connections.
    pub fn new() -> Self {
        Self {
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            line: VecDeque::new(),
            refusals: VecDeque::new(),
            next_port: FIRST_HOST_PORT,
        }
    }

    /// Forgets all of it; the streams close.
    pub fn clear(&mut self) {
        let next_port = self.next_port;
        *self = Self { next_port, ..Self::new() };
    }

    fn has_room(&self) -> bool {
        self.connections.len() < MAX_CONNECTIONS
            && self.connections.values().filter(|connection| connection.waits()).count() < MAX_WAITING
    }

    /// A client of the host wants `guest`'s port. With too many others before it, its stream closes.
    pub fn ask(&mut self, token: u64, stream: OwnedFd, guest: u32) {
        if !self.has_room() {
            return;
        }
        let mut ports = Ports { host: self.next_port, guest };
        // There are far fewer connections than ports to choose from.
        while self.by_ports.contains_key(&ports) {
            ports.host = next(ports.host);
        }
        self.next_port = next(ports.host);
        self.insert(token, Connection::ask(ports, stream));
    }

    /// The guest wants a port of the host that it has no connection with; `broker` asks for the stream.
    pub fn request(&mut self, token: u64, request: &Header, broker: impl FnOnce() -> bool) {
        if self.has_room() && broker() {
            self.insert(token, Connection::broker(request));
        } else {
            self.refuse(request.ports);
        }
    }

    fn insert(&mut self, token: u64, connection: Connection) {
        self.by_ports.insert(connection.ports, token);
        self.connections.insert(token, connection);
        self.settle(token, Fate::Stays);
    }

    /// Tells the guest that there is no such connection, when it has a buffer for that.
    pub fn refuse(&mut self, ports: Ports) {
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push_back(ports);
        }
    }

    /// Ends the connection of these ports, which the guest has misused, and tells it so.
    pub fn reset(&mut self, ports: Ports) {
        match self.by_ports.get(&ports).copied() {
            Some(token) => self.settle(token, Fate::Reset),
            None => self.refuse(ports),
        }
    }

    /// Takes a packet for a connection; false if there is none.
    pub fn take(&mut self, header: &Header, payload: &Vectors<'_>) -> bool {
        let token = self.by_ports.get(&header.ports).copied();
        let taken =
            token.is_some_and(|token| self.with(token, |connection| connection.take(header, payload)));
        taken || header.operation == Operation::Reset
    }

    /// The broker has an answer for the connection of that token; a stream that nobody waits for closes.
    pub fn answer(&mut self, token: u64, stream: Option<OwnedFd>) {
        self.with(token, |connection| match stream {
            Some(stream) => connection.connected(stream),
            None if connection.waits() => Fate::Reset,
            None => Fate::Stays,
        });
    }

    /// The stream of the connection of that token is ready.
    pub fn ready(&mut self, token: u64, flags: PollFlags) {
        self.with(token, |connection| connection.ready(flags));
    }

    fn with(&mut self, token: u64, change: impl FnOnce(&mut Connection) -> Fate) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        let fate = change(connection);
        self.settle(token, fate);
        true
    }

    fn settle(&mut self, token: u64, fate: Fate) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let ports = connection.ports;
        match fate {
            Fate::Stays => {
                if connection.has_news() && !std::mem::replace(&mut connection.in_line, true) {
                    self.line.push_back(token);
                }
                return;
            }
            Fate::Drains => {}
            Fate::Reset | Fate::Gone => {
                let unknown = connection.is_unasked();
                self.connections.remove(&token);
                // One that drains has left its ports, perhaps to another.
                if self.by_ports.get(&ports) == Some(&token) && fate == Fate::Reset && !unknown {
                    self.refuse(ports);
                }
            }
        }
        if self.by_ports.get(&ports) == Some(&token) {
            self.by_ports.remove(&ports);
        }
    }

    /// Whether there is something for the guest.
    pub fn has_news(&self) -> bool {
        !self.line.is_empty() || !self.refusals.is_empty()
    }

    /// Whether what comes next is likely to be long.
    pub fn flows(&self) -> bool {
        let next = self.line.front().filter(|_| self.refusals.is_empty());
        next.and_then(|token| self.connections.get(token)).is_some_and(|connection| connection.flows)
    }

    /// The next packet for the guest; its payload is in `room`.
    pub fn next_packet(&mut self, room: &Vectors<'_>) -> Option<Header> {
        if let Some(ports) = self.refusals.pop_front() {
            return Some(Header::bare(ports, Operation::Reset));
        }
        while let Some(token) = self.line.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.in_line = false;
            match connection.next_packet(room) {
                Ok(packet) => {
                    // At the end of the line again, if there is more.
                    self.settle(token, Fate::Stays);
                    if packet.is_some() {
                        return packet;
                    }
                }
                Err(fate) => {
                    self.settle(token, fate);
                    if let Some(ports) = self.refusals.pop_front() {
                        return Some(Header::bare(ports, Operation::Reset));
                    }
                }
            }
        }
        None
    }

    /// Names the streams to be watched.
    pub fn watches<'a>(&'a self, watches: &mut Vec<Watch<'a>>) {
        watches.extend(self.connections.iter().filter_map(|(token, connection)| {
            let (fd, flags) = connection.watch()?;
            Some(Watch { fd, flags, token: *token })
        }));
    }

    /// When the next connection's time is up.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.values().filter_map(|connection| connection.deadline).min()
    }

    /// Ends those whose time is up.
    pub fn expire(&mut self, now: Instant) {
        let late = |connection: &Connection| connection.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| late(connection))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.settle(token, Fate::Reset);
        }
    }

    /// How many connections there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.connections.len()
    }
}

/// The port after `port`, around the top.
fn next(port: u32) -> u32 {
    // All ones mean "any" to Linux.
    if port >= u32::MAX - 1 { FIRST_HOST_PORT } else { port + 1 }
}
