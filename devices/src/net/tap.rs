//! One tap, and what waits between it and the guest.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::batch::Batch;
use super::spec::MAX_PACKET;
use crate::serve::Vectors;

/// A tap. A packet is read from it once and for all: one for which the guest has no room waits here.
#[derive(Debug)]
pub(super) struct Tap {
    file: OwnedFd,
    /// It may have packets.
    pub readable: bool,
    /// It takes no packets just now.
    pub full: bool,
    /// A packet that has been read, and waits for room or for its time.
    pub parked: Option<Vec<u8>>,
}

/// What has been read into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A packet of so many bytes is in the batch.
    Packet(usize),
    /// A packet is parked: the batch has no room for it.
    Parked,
    /// There is none.
    Nothing,
}

impl Tap {
    pub fn new(file: OwnedFd) -> Self {
        Self { file, readable: false, full: false, parked: None }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether there is, or may be, a packet.
    pub fn has_packets(&self) -> bool {
        self.readable || self.parked.is_some()
    }

    /// Reads a packet straight into a batch that has room for any.
    fn read_straight(&mut self, batch: &Batch<'_>) -> Read {
        match batch.room.read_from(self.file.as_fd()) {
            Ok(count) if count > 0 => Read::Packet(count),
            _ => self.nothing(),
        }
    }

    /// Reads a packet by way of a buffer of our own, since it may be longer than the batch has room for.
    fn read_aside(&mut self) -> Read {
        let mut packet = vec![0; MAX_PACKET];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.file, &mut packet[..])) {
            Ok(count) if count > 0 => {
                packet.truncate(count);
                self.parked = Some(packet);
                Read::Parked
            }
            _ => self.nothing(),
        }
    }

    /// Neither packets nor an error are there for good: the next look tells.
    fn nothing(&mut self) -> Read {
        self.readable = false;
        Read::Nothing
    }

    /// The next packet, into `batch` if it has room; `largest` is the longest that is to be expected.
    pub fn next_packet(&mut self, batch: &Batch<'_>, largest: usize) -> Read {
        if self.parked.is_none() {
            let read =
                if batch.room.len() >= largest { self.read_straight(batch) } else { self.read_aside() };
            if read != Read::Parked {
                return read;
            }
        }
        match &self.parked {
            Some(packet) if batch.room.len() >= packet.len() => {
                let count = batch.room.copy_from(packet);
                self.parked = None;
                Read::Packet(count)
            }
            _ => Read::Parked,
        }
    }

    /// Takes a packet that was read back out of `room`.
    pub fn park(&mut self, room: &Vectors<'_>, count: usize) {
        let mut packet = vec![0; count];
        room.copy_to(&mut packet);
        self.parked = Some(packet);
    }

    /// Sends a packet; false if the tap takes none just now. One that it refuses is lost, as on any wire.
    pub fn send(&mut self, packet: &Vectors<'_>) -> bool {
        let sent = packet.write_to(self.file.as_fd());
        self.full = sent.as_ref().is_err_and(|error: &io::Error| error.kind() == ErrorKind::WouldBlock);
        !self.full
    }
}
