//! The control end of the socket to `machine`.

use std::io;
use std::os::fd::BorrowedFd;

use tokio::io::unix::AsyncFd;

use crate::wire::{Channel, ChannelError, Command, Envelope, FromMachine};

/// Sends commands, receives replies and notices.
#[derive(Debug)]
pub struct MachineLink {
    channel: AsyncFd<Channel>,
    next_id: u32,
}

impl MachineLink {
    /// Registers the channel with the runtime.
    pub fn new(channel: Channel) -> io::Result<Self> {
        let channel = channel.into_nonblocking()?;
        // SAFETY: the registration owns the channel, and `Channel` never changes its descriptor.
        let channel = unsafe { AsyncFd::register(channel)? };
        Ok(Self { channel, next_id: 1 })
    }

    /// Sends a command and answers the id its reply will carry. Does not wait: the driver has at most one command
    /// under way, so the socket's buffer always has room.
    pub fn send(&mut self, body: Command, fds: &[BorrowedFd<'_>]) -> Result<u32, ChannelError> {
        let id = self.next_id;
        self.next_id += 1;
        self.channel.get_ref().send(&Envelope { id, body }, fds)?;
        Ok(id)
    }

    /// A number like that of a command, for an answer that comes from elsewhere.
    pub fn skip_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Waits for the next message. Descriptors that came with it are closed: `machine` has none to give.
    pub async fn receive(&self) -> Result<FromMachine, ChannelError> {
        loop {
            let mut ready = self.channel.readable().await.map_err(ChannelError::Io)?;
            match ready.get_inner().receive() {
                Ok(received) => return Ok(received.message),
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                Err(error) => return Err(error),
            }
        }
    }
}
