//! One read from a Unix socket, with the file descriptors that come along.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use super::ledger::MAX_FDS;

/// What one read brought.
pub(super) struct Received {
    /// How many bytes; 0 is the end of the stream.
    pub bytes: usize,
    /// Descriptors; closed on exec.
    pub fds: Vec<OwnedFd>,
    /// Whether the kernel had more descriptors than it could hand over.
    pub truncated: bool,
}

/// Reads without waiting.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` where there is nothing yet.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    Ok(Received { bytes: message.bytes, fds, truncated: message.flags.contains(ReturnFlags::CTRUNC) })
}
