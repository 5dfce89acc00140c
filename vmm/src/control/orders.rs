//! Orders to a device process: requests of `control` itself, such as to take note of a disk's new size.
//!
//! What a process may answer is up to it, and it may have been taken over: its answer has a size and a time limit, and
//! no descriptor is taken from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use granule_devices::serve::{MAX_ORDER, NUMBER, UNASKED};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// How long a process may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It was refused.
    #[error("{0}")]
    Refused(String),
    /// There was no answer in time.
    #[error("the device process did not answer within {} seconds", LIMIT.as_secs())]
    Silent,
    /// The socket.
    #[error("the device process cannot be reached")]
    Io(#[from] io::Error),
}

/// Our end of a process's order socket; one order at a time is under way.
#[derive(Debug, Clone)]
pub struct Orders(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    socket: AsyncFd<OwnedFd>,
    /// The number of the last order.
    number: u32,
}

impl Orders {
    /// Our end, and the one for the process.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let pair = |flags| socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = pair(SocketFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // SAFETY: the registration owns this descriptor and gives it to nobody, so it stays the same file until it is dropped.
        let socket = unsafe { AsyncFd::register(ours)? };
        Ok((Self(Arc::new(Mutex::new(Line { socket, number: 0 }))), theirs))
    }

    /// Gives an order, with a descriptor if it needs one, and waits for the answer.
    pub async fn give(&self, order: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<Vec<u8>, OrderError> {
        let mut line = self.0.lock().await;
        line.number = line.number.wrapping_add(1);
        let number = line.number.to_le_bytes();
        send(line.socket.get_ref().as_fd(), number, order, fd)?;
        let answer = receive(&line.socket, number);
        let answer = tokio::time::timeout(LIMIT, answer).await.map_err(|_| OrderError::Silent)??;
        match answer.split_first() {
            Some((0, text)) => Ok(text.to_vec()),
            Some((_, reason)) => Err(OrderError::Refused(String::from_utf8_lossy(reason).into_owned())),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Why the process could not begin, if it has said so: the outermost cause first.
    pub fn last_words(&self) -> Vec<String> {
        let Ok(line) = self.0.try_lock() else { return Vec::new() };
        let mut words = vec![0; NUMBER + MAX_ORDER + 1];
        // Only looked at: it may be the answer to an order.
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let length = recv(line.socket.get_ref(), &mut *words, flags).map_or(0, |(length, _)| length);
        match words[..length].split_first_chunk::<NUMBER>() {
            Some((&UNASKED, [_, text @ ..])) => causes(text),
            _ => Vec::new(),
        }
    }
}

/// Lines of text, and no more than fit an answer to a client.
fn causes(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.is_empty()).take(8);
    lines.map(|line| line.chars().filter(|letter| !letter.is_control()).take(512).collect()).collect()
}

fn send(
    socket: BorrowedFd<'_>,
    number: [u8; NUMBER],
    order: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let fds = fd.as_slice();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [io::IoSlice::new(&number), io::IoSlice::new(order)];
    sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The answer to the order of this number; late ones to others are thrown away.
async fn receive(socket: &AsyncFd<OwnedFd>, number: [u8; NUMBER]) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; NUMBER + MAX_ORDER + 1];
    loop {
        let mut ready = socket.readable().await?;
        let received = ready.try_io(|socket| Ok(recv(socket, &mut *answer, RecvFlags::DONTWAIT)?));
        // Nothing there after all.
        let Ok(received) = received else { continue };
        let (length, _) = received?;
        match answer[..length].split_first_chunk::<NUMBER>() {
            Some((of, answer)) if *of == number => return Ok(answer.to_vec()),
            Some(_) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_that_cannot_begin_says_why_before_it_goes() {
        let (orders, process) = Orders::pair().unwrap();
        assert!(orders.last_words().is_empty());
        let say = |text: &[u8]| rustix::net::send(&process, text, SendFlags::empty()).unwrap();
        say(b"\0\0\0\0\x01no room\n\x1b[2Jin memory\n");
        drop(process);
        assert_eq!(orders.last_words(), ["no room", "[2Jin memory"]);
        let (orders, process) = Orders::pair().unwrap();
        rustix::net::send(&process, b"\x01\0\0\0\0answer", SendFlags::empty()).unwrap();
        assert!(orders.last_words().is_empty(), "that was asked for");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_comes_too_late_is_not_the_next_orders() {
        let (orders, process) = Orders::pair().unwrap();
        let order = orders.give(b"first", None);
        assert!(tokio::time::timeout(Duration::from_millis(1), order).await.is_err());
        let answer = |number: u32, text: &[u8]| {
            let datagram = [&number.to_le_bytes()[..], &[0], text].concat();
            rustix::net::send(&process, &datagram, SendFlags::empty()).unwrap();
        };
        answer(1, b"late");
        answer(2, b"in time");
        assert_eq!(orders.give(b"second", None).await.unwrap(), b"in time");
        drop(process);
        assert!(matches!(orders.give(b"third", None).await, Err(OrderError::Io(_))));
    }
}
