//! What a process and the mover say to each other, over a pair of SEQPACKET sockets.
//!
//! ```text
//!   process ── number, then guest address, own address, bytes of each range; a userfaultfd ──► mover
//!           ◄── number, 0 (registered) or 1 and a reason ──
//!           ◄── 0, 2: all of memory is there ──              once, unasked
//! ```
//! All numbers are little endian. The announcement's own number keeps the answer to a process that died apart from that to
//! its successor, which has the same socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::Userfault;

const NUMBER: usize = 4;
const RANGE: usize = 24;
/// More ranges than any table of memory has.
const MAX_RANGES: usize = 32;
const MAX_REASON: usize = 512;

const REGISTERED: u8 = 0;
const REFUSED: u8 = 1;
const COMPLETE: u8 = 2;

/// Where a process has a range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Guest physical address.
    pub guest: u64,
    /// Address in the process.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl Mapped {
    /// Where all of `memory` is in this process.
    #[must_use]
    pub fn all(memory: &GuestMemoryMmap<()>) -> Vec<Self> {
        let range = |region: &GuestRegionMmap<()>| Self {
            guest: region.start_addr().0,
            address: region.as_ptr().addr() as u64,
            size: region.len(),
        };
        memory.iter().map(range).collect()
    }
}

/// What a process has told the mover: an allegation.
#[derive(Debug)]
pub struct Announcement {
    /// The number that the answer is to have.
    pub number: u32,
    /// What it has mapped.
    pub ranges: Vec<Mapped>,
    /// What came with it; to be a userfaultfd.
    pub fd: Option<OwnedFd>,
}

/// What the mover tells a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The ranges are registered: they may be touched.
    Registered,
    /// They are not, for this reason.
    Refused(String),
    /// All of memory is there; nothing needs registering any more.
    Complete,
}

/// Why memory that is not there yet must not be touched.
#[derive(Debug, Error)]
pub enum LateError {
    /// No userfaultfd.
    #[error("this process gets no userfaultfd")]
    Userfault(#[source] io::Error),
    /// The mover cannot be told, or does not answer.
    #[error("the process that places guest memory cannot be reached")]
    Mover(#[source] io::Error),
    /// It is gone, and memory was not complete.
    #[error("the process that places guest memory is gone")]
    Gone,
    /// It has said no.
    #[error("the process that places guest memory refuses this mapping: {0}")]
    Refused(String),
    /// Its answer is none.
    #[error("the process that places guest memory answers nonsense")]
    Nonsense,
}

/// A process's side: what it announces its mappings by.
#[derive(Debug)]
pub struct Late {
    device: OwnedFd,
    mover: OwnedFd,
    pub(super) number: u32,
    complete: bool,
    /// Kept open; see the description of the parent module.
    announced: Option<Userfault>,
}

impl Late {
    /// `device` is `/dev/userfaultfd`, `mover` a socket that leads to the mover.
    #[must_use]
    pub fn new(device: OwnedFd, mover: OwnedFd) -> Self {
        let mut number = [0; 4];
        // Where there is nothing random the count begins at 0.
        let _ = rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::NONBLOCK);
        Self { device, mover, number: u32::from_le_bytes(number), complete: false, announced: None }
    }

    /// Announces what is mapped now, in the place of what was announced before. Until it has returned well, nobody may touch it.
    ///
    /// # Errors
    /// Where that stays so.
    pub fn announce(&mut self, ranges: &[Mapped]) -> Result<(), LateError> {
        if self.complete {
            return Ok(());
        }
        let userfault = Userfault::of(self.device.as_fd()).map_err(LateError::Userfault)?;
        self.announce_as(userfault, ranges)
    }

    /// The same with a userfaultfd that is there already.
    ///
    /// # Errors
    /// Likewise.
    pub fn announce_as(&mut self, userfault: Userfault, ranges: &[Mapped]) -> Result<(), LateError> {
        if self.complete {
            return Ok(());
        }
        // 0 is the mover's own.
        self.number = self.number.wrapping_add(1).max(1);
        let message = encode(self.number, ranges);
        match send(self.mover.as_fd(), &message, Some(userfault.as_fd()), SendFlags::NOSIGNAL) {
            // Gone, but maybe complete: the answer tells.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(LateError::Mover(error)),
            _ => {}
        }
        loop {
            match self.heard()? {
                (_, Answer::Complete) => self.complete = true,
                (number, _) if number != self.number => continue,
                (_, Answer::Registered) => self.announced = Some(userfault),
                (_, Answer::Refused(reason)) => return Err(LateError::Refused(reason)),
            }
            return Ok(());
        }
    }

    /// Waits until memory is complete, and lets go of the userfaultfd whatever comes of it, after `lost` if the mover is
    /// gone before.
    pub fn wait(mut self, lost: impl FnOnce()) {
        while !self.complete {
            match self.heard() {
                Ok((_, answer)) => self.complete = answer == Answer::Complete,
                Err(_) => return lost(),
            }
        }
    }

    fn heard(&self) -> Result<(u32, Answer), LateError> {
        let mut bytes = [0; NUMBER + 1 + MAX_REASON];
        let (read, _) =
            receive(self.mover.as_fd(), &mut bytes, RecvFlags::empty()).map_err(LateError::Mover)?;
        if read == 0 {
            return Err(LateError::Gone);
        }
        decode_answer(&bytes[..read]).ok_or(LateError::Nonsense)
    }
}

/// The mover's side: answers an announcement, or tells that memory is complete. Does not wait for a process that does not read.
///
/// # Errors
/// Where the process cannot be told: it is gone, or it does not read.
pub fn tell(process: BorrowedFd<'_>, number: u32, answer: &Answer) -> io::Result<()> {
    let (code, reason) = match answer {
        Answer::Registered => (REGISTERED, &[][..]),
        Answer::Refused(reason) => (REFUSED, &reason.as_bytes()[..reason.len().min(MAX_REASON)]),
        Answer::Complete => (COMPLETE, &[][..]),
    };
    let message = [&number.to_le_bytes()[..], &[code], reason].concat();
    send(process, &message, None, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

impl Announcement {
    /// Receives one; `None` where the process is gone. `wait`: until there is one.
    ///
    /// # Errors
    /// `WouldBlock` where there is none, `InvalidData` for what is none.
    pub fn receive(process: BorrowedFd<'_>, wait: bool) -> io::Result<Option<Self>> {
        let mut bytes = [0; NUMBER + RANGE * MAX_RANGES];
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let (read, fd) = receive(process, &mut bytes, flags)?;
        if read == 0 {
            return Ok(None);
        }
        let (number, ranges) = decode(&bytes[..read]).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(Self { number, ranges, fd }))
    }
}

fn encode(number: u32, ranges: &[Mapped]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    for Mapped { guest, address, size } in ranges {
        bytes.extend([guest, address, size].into_iter().flat_map(|number| number.to_le_bytes()));
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u32, Vec<Mapped>)> {
    let (number, rest) = bytes.split_first_chunk::<NUMBER>()?;
    let (ranges, []) = rest.as_chunks::<RANGE>() else { return None };
    let ranges = ranges.iter().map(|range| {
        let mut numbers = range.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next().unwrap_or_default();
        Mapped { guest: next(), address: next(), size: next() }
    });
    Some((u32::from_le_bytes(*number), ranges.collect()))
}

fn decode_answer(bytes: &[u8]) -> Option<(u32, Answer)> {
    let (number, rest) = bytes.split_first_chunk::<NUMBER>()?;
    let (code, reason) = rest.split_first()?;
    let answer = match *code {
        REGISTERED => Answer::Registered,
        REFUSED => Answer::Refused(String::from_utf8_lossy(reason).into_owned()),
        COMPLETE => Answer::Complete,
        _ => return None,
    };
    Some((u32::from_le_bytes(*number), answer))
}

fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let sent = rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, flags));
    sent.map(drop).map_err(io::Error::from)
}

fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            // Nothing more comes, as after its end.
            Err(rustix::io::Errno::CONNRESET) => break 0,
            Err(error) => return Err(error.into()),
        }
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((received, fd))
}
