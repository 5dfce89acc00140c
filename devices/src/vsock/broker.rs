//! Whoever connects for the device: the device itself, in its jail, can make no socket.
//!
//! ```text
//!   device ── tag, port ────────────────► broker   (SEQPACKET, 16 bytes either way)
//!   device ◄─ tag, port, errno, [socket] ─ broker
//! ```
//! The device chooses a port and nothing else. A tag is never used twice, by no successor of the process either: an
//! answer that nobody waits for is dropped with its socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Bytes of a message.
const SIZE: usize = 16;

/// A wish for a connection to the host's end of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Names the wish in its answer.
    pub tag: u64,
    /// The port that the guest connects to.
    pub port: u32,
}

/// What became of a wish.
#[derive(Debug)]
pub struct Answer {
    /// The wish.
    pub wish: Wish,
    /// A connected stream that does not block, or why there is none.
    pub stream: io::Result<OwnedFd>,
}

impl Wish {
    /// Tells the broker, if it has room for one more.
    pub fn send(self, broker: BorrowedFd<'_>) -> io::Result<()> {
        send(broker, self, 0, None)
    }

    /// Takes what a device wishes; `None` when it will wish no more.
    pub fn receive(device: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        Ok(receive(device)?.map(|(wish, _, _)| wish))
    }
}

impl Answer {
    /// Tells the device.
    pub fn send(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        match &self.stream {
            Ok(stream) => send(device, self.wish, 0, Some(stream.as_fd())),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::ECONNREFUSED);
                send(device, self.wish, errno.unsigned_abs(), None)
            }
        }
    }

    /// Takes an answer; `None` when there will be no more.
    pub fn receive(broker: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let Some((wish, errno, stream)) = receive(broker)? else { return Ok(None) };
        let refused = || io::Error::from_raw_os_error(errno.try_into().unwrap_or(libc::ECONNREFUSED));
        Ok(Some(Self { wish, stream: stream.ok_or_else(refused) }))
    }
}

fn send(to: BorrowedFd<'_>, wish: Wish, errno: u32, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(&wish.tag.to_le_bytes());
    bytes[8..12].copy_from_slice(&wish.port.to_le_bytes());
    bytes[12..].copy_from_slice(&errno.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds
        && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(to, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
    Ok(())
}

fn receive(from: BorrowedFd<'_>) -> io::Result<Option<(Wish, u32, Option<OwnedFd>)>> {
    let mut bytes = [0; SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    match received.bytes {
        0 => Ok(None),
        SIZE => {
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
            let tag = u64::from(word(0)) | u64::from(word(4)) << 32;
            Ok(Some((Wish { tag, port: word(8) }, word(12), fd)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn wishes_and_answers_arrive_with_their_sockets() {
        let (device, broker) = pair();
        let wish = Wish { tag: u64::MAX - 5, port: u32::MAX };
        wish.send(device.as_fd()).unwrap();
        assert_eq!(Wish::receive(broker.as_fd()).unwrap(), Some(wish));
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        Answer { wish, stream: Ok(stream.into()) }.send(broker.as_fd()).unwrap();
        let answer = Answer::receive(device.as_fd()).unwrap().unwrap();
        assert_eq!(answer.wish, wish);
        assert!(answer.stream.is_ok());
        Answer { wish, stream: Err(io::Error::from_raw_os_error(libc::ENOENT)) }
            .send(broker.as_fd())
            .unwrap();
        let answer = Answer::receive(device.as_fd()).unwrap().unwrap();
        assert_eq!(answer.stream.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn nonsense_and_silence_are_told_apart() {
        let (device, broker) = pair();
        assert_eq!(Wish::receive(broker.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        rustix::io::write(&device, b"no wish").unwrap();
        assert_eq!(Wish::receive(broker.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(device);
        assert_eq!(Wish::receive(broker.as_fd()).unwrap(), None);
    }
}
