//! Notices from the guest's threads to the machine's loop.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use vmm_sys_util::eventfd::EventFd;

use crate::wire::Notice;

/// The loop's end.
#[derive(Debug)]
pub struct Mailbox {
    receiver: Receiver<Notice>,
    postman: Postman,
}

/// A thread's end.
#[derive(Debug)]
pub struct Postman {
    sender: Sender<Notice>,
    bell: EventFd,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        Ok(Self {
            receiver,
            postman: Postman { sender, bell: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)? },
        })
    }

    /// Another thread's end.
    pub fn postman(&self) -> io::Result<Postman> {
        self.postman.try_clone()
    }

    /// Everything that was posted since the last time.
    pub fn empty(&self) -> Vec<Notice> {
        // EAGAIN: rung between two visits; the letters are all that counts.
        let _ = self.postman.bell.read();
        self.receiver.try_iter().collect()
    }
}

impl AsRawFd for Mailbox {
    fn as_raw_fd(&self) -> RawFd {
        self.postman.bell.as_raw_fd()
    }
}

impl Postman {
    /// One more end.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { sender: self.sender.clone(), bell: self.bell.try_clone()? })
    }

    /// Posts a notice; never waits.
    pub fn post(&self, notice: Notice) {
        // The loop lives as long as the process.
        if self.sender.send(notice).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}
