//! A SEQPACKET socket that carries one serde message and its descriptors per datagram.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};

/// Largest message in bytes. A boot specification with the longest command line and the most devices stays below half of it.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Most descriptors in one message (the kernel's own limit, `SCM_MAX_FD`).
const MAX_FDS: usize = 253;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process closed its end or died.
    #[error("the other process has gone")]
    Closed,
    /// The operating system refused.
    #[error("the socket between machine and control failed")]
    Io(#[from] io::Error),
    /// What came is no message of this version.
    #[error("a message does not parse")]
    Malformed(#[source] serde_json::Error),
    /// A message is larger than [`MAX_MESSAGE`] or carries more descriptors than allowed.
    #[error("a message exceeds {MAX_MESSAGE} bytes or its descriptors were cut off")]
    TooLarge,
}

/// One end of the socket between `machine` and `control`.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A message together with the descriptors that came with it, in the sender's order.
#[derive(Debug)]
pub struct Received<T> {
    /// The decoded message.
    pub message: T,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// Makes both ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Wraps an inherited descriptor.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends one message; blocks while the socket's buffer is full, unless the socket is non-blocking.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(ChannelError::TooLarge);
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET | rustix::io::Errno::NOTCONN) => {
                    return Err(ChannelError::Closed);
                }
                Err(errno) => return Err(ChannelError::Io(errno.into())),
            }
        }
    }

    /// Receives one message. On a non-blocking socket with nothing to read the error is `WouldBlock`.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Received<T>, ChannelError> {
        let mut bytes = vec![0u8; MAX_MESSAGE];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let answer = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(answer) => break answer,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::Io(errno.into())),
            }
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if answer.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if answer.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::TooLarge);
        }
        let message = serde_json::from_slice(&bytes[..answer.bytes]).map_err(ChannelError::Malformed)?;
        Ok(Received { message, fds })
    }

    /// Makes `receive` and `send` answer `WouldBlock` instead of waiting.
    pub fn into_nonblocking(self) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        Ok(self)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_message_arrives_with_its_descriptors_in_order() {
        let (a, b) = Channel::pair().unwrap();
        let (mut read_end, write_end) = io::pipe().unwrap();
        let (_unused, other) = io::pipe().unwrap();
        a.send(&"hello", &[write_end.as_fd(), other.as_fd()]).unwrap();
        drop(write_end);
        let got: Received<String> = b.receive().unwrap();
        assert_eq!(got.message, "hello");
        assert_eq!(got.fds.len(), 2);
        let mut fds = got.fds.into_iter();
        std::fs::File::from(fds.next().unwrap()).write_all(b"x").unwrap();
        drop(fds);
        let mut text = String::new();
        read_end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_closed_peer_is_told_apart_from_a_failure() {
        let (a, b) = Channel::pair().unwrap();
        drop(b);
        assert!(matches!(a.receive::<String>(), Err(ChannelError::Closed)));
        assert!(matches!(a.send(&"x", &[]), Err(ChannelError::Closed)));
    }

    #[test]
    fn garbage_is_malformed_and_an_oversized_message_is_refused_before_it_is_sent() {
        let (a, b) = Channel::pair().unwrap();
        rustix::net::send(&a, b"{not json", SendFlags::empty()).unwrap();
        assert!(matches!(b.receive::<u32>(), Err(ChannelError::Malformed(_))));
        assert!(matches!(a.send(&"x".repeat(MAX_MESSAGE), &[]), Err(ChannelError::TooLarge)));
    }
}
