//! Letters from the guest's threads to the machine's loop.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use vmm_sys_util::eventfd::EventFd;

use super::alarms::Alarms;
use crate::wire::Notice;

/// What a thread has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Letter {
    /// For `control`.
    Notice(Notice),
    /// For the loop itself: the guest has let go of what is behind a root port.
    Released {
        /// The PCI segment.
        segment: u16,
        /// The port, by its home bus.
        home: u8,
    },
}

/// The loop's end.
#[derive(Debug)]
pub struct Mailbox {
    receiver: Receiver<Letter>,
    postman: Postman,
}

/// A thread's end.
#[derive(Debug)]
pub struct Postman {
    sender: Sender<Letter>,
    bell: EventFd,
    alarms: Alarms,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        Ok(Self {
            receiver,
            postman: Postman {
                sender,
                bell: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
                alarms: Alarms::new()?,
            },
        })
    }

    /// Another thread's end.
    pub fn postman(&self) -> io::Result<Postman> {
        self.postman.try_clone()
    }

    /// The alarms that device processes raise.
    pub fn alarms(&self) -> &Alarms {
        &self.postman.alarms
    }

    /// Everything that was posted since the last time.
    pub fn empty(&self) -> Vec<Letter> {
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
        Ok(Self { sender: self.sender.clone(), bell: self.bell.try_clone()?, alarms: self.alarms.clone() })
    }

    /// The alarms that device processes raise.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Posts a notice; never waits.
    pub fn post(&self, notice: Notice) {
        self.send(Letter::Notice(notice));
    }

    /// Posts that the guest has let go of what is behind a root port; never waits.
    pub fn released(&self, segment: u16, home: u8) {
        self.send(Letter::Released { segment, home });
    }

    fn send(&self, letter: Letter) {
        // The loop lives as long as the process.
        if self.sender.send(letter).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}
