//! Orders: requests of whoever started the process, over a pair of SEQPACKET sockets.
//!
//! ```text
//!   starter ── number, order, at most one descriptor ──► process
//!           ◄── number, 0 and an answer, or 1 and a reason ──
//! ```
//! One datagram each way. The number is the order's own (4 bytes, little endian), so that an answer which comes too late is
//! not taken for another's. What an order says is a matter between the starter and the kind of device.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};

use super::{Device, Wake};

/// The longest order and the longest answer, bytes.
pub const MAX_ORDER: usize = 4096;

/// Bytes of an order's number.
pub const NUMBER: usize = 4;
/// The number of no order: of what a process says before any, when it cannot begin.
pub const UNASKED: [u8; NUMBER] = [0; NUMBER];

/// The order that every kind takes: to tell what it has counted, a line `NAME VALUE` each.
pub const COUNTERS: &[u8] = b"counters";

/// What a device has counted since it began: names of lower-case letters and underscores, and numbers.
pub type Counters = Vec<(&'static str, u64)>;

fn told(counters: &[(&str, u64)]) -> Vec<u8> {
    let lines = counters.iter().map(|(name, value)| format!("{name} {value}\n"));
    lines.collect::<String>().into_bytes()
}

/// The process's end.
pub(super) struct Orders(OwnedFd);

impl Orders {
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes one order, has it carried out and answers; answers whether there may be more. `counted` is what was counted for the
    /// device.
    pub fn take(&self, device: &mut impl Device, counted: &Counters, wake: &mut Wake) -> io::Result<bool> {
        let mut order = [0; NUMBER + MAX_ORDER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match recvmsg(&self.0, &mut [IoSliceMut::new(&mut order)], &mut ancillary, flags) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if received.bytes == 0 {
            return Ok(false);
        }
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let Some((number, order)) = order[..received.bytes].split_first_chunk::<NUMBER>() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let answer = match order {
            COUNTERS => Ok(told(&[&counted[..], &device.counters()].concat())),
            order => device.order(order, fd, wake),
        };
        let (code, text) = match answer {
            Ok(answer) => (0, answer),
            Err(reason) => (1, reason.into_bytes()),
        };
        let code = [code];
        let parts =
            [IoSlice::new(number), IoSlice::new(&code), IoSlice::new(&text[..text.len().min(MAX_ORDER)])];
        sendmsg(&self.0, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        Ok(true)
    }
}
