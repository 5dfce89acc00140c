//! Orders: requests of whoever started the process, over a pair of SEQPACKET sockets.
//!
//! ```text
//!   starter ── order, at most one descriptor ──► process
//!           ◄── 0 and an answer, or 1 and a reason ──
//! ```
//! One datagram each way. What an order says is a matter between the starter and the kind of device.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};

use super::{Device, Wake};

/// The longest order and the longest answer, bytes.
pub const MAX_ORDER: usize = 4096;

/// The process's end.
pub(super) struct Orders(OwnedFd);

impl Orders {
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes one order, has it carried out and answers; answers whether there may be more.
    pub fn take(&self, device: &mut impl Device, wake: &mut Wake) -> io::Result<bool> {
        let mut order = [0; MAX_ORDER];
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
        let (code, text) = match device.order(&order[..received.bytes], fd, wake) {
            Ok(answer) => (0, answer),
            Err(reason) => (1, reason.into_bytes()),
        };
        let code = [code];
        let parts = [IoSlice::new(&code), IoSlice::new(&text[..text.len().min(MAX_ORDER)])];
        sendmsg(&self.0, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        Ok(true)
    }
}
