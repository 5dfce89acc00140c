//! One tap, and what waits between it and the guest.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::batch::Batch;
use super::spec::{HEADER_SIZE, MAX_PACKET};
use crate::serve::{Ring, RingFault, Vectors};

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
    /// Where the end of a packet goes for which too little room was expected to be needed.
    beyond: Vec<u8>,
    /// Bytes of the last packet.
    last: usize,
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
        Self {
            file,
            readable: false,
            full: false,
            parked: None,
            beyond: vec![0; MAX_PACKET],
            last: HEADER_SIZE,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether there is, or may be, a packet.
    pub fn has_packets(&self) -> bool {
        self.readable || self.parked.is_some()
    }

    /// How many bytes the next packet is expected to have: as many as the last one had, or the one that waits.
    ///
    /// Room for the longest would be some forty buffers of Linux, taken and put back for each acknowledgement.
    pub fn expected(&self) -> usize {
        self.parked.as_ref().map_or(self.last, Vec::len)
    }

    /// The next packet, into `batch`, which may grow for it to `most` chains.
    pub fn next_packet(
        &mut self,
        ring: &mut Ring,
        batch: &mut Batch<'_>,
        most: usize,
    ) -> Result<Read, RingFault> {
        if let Some(packet) = &self.parked {
            if batch.room.len() < packet.len() {
                return Ok(Read::Parked);
            }
            let count = batch.room.copy_from(packet);
            self.parked = None;
            return Ok(Read::Packet(count));
        }
        let count = match batch.room.read_with(&mut self.beyond, self.file.as_fd()) {
            Ok(count) if count > 0 => count,
            // Neither packets nor an error are there for good: the next look tells.
            _ => {
                self.readable = false;
                return Ok(Read::Nothing);
            }
        };
        self.last = count;
        let straight = batch.room.len();
        if count <= straight {
            return Ok(Read::Packet(count));
        }
        batch.fill(ring, count, most)?;
        let beyond = &self.beyond[..count - straight];
        if batch.room.len() < count {
            let mut packet = vec![0; count];
            let (front, rest) = packet.split_at_mut(straight);
            batch.room.copy_to(front);
            rest.copy_from_slice(beyond);
            self.parked = Some(packet);
            return Ok(Read::Parked);
        }
        batch.room.after(straight).copy_from(beyond);
        Ok(Read::Packet(count))
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
