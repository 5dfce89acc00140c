//! Descriptors that the command line names and that came through `machine`.

use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The first descriptor after standard input, output and error.
const FIRST: RawFd = 3;

/// What `machine` passed on: its number on the command line → the descriptor here.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<RawFd, OwnedFd>);

/// The list of numbers is not one that `machine` writes.
#[derive(Debug, thiserror::Error)]
#[error("control is started by granule itself, not by hand")]
pub struct NotFromMachine;

impl Inherited {
    /// Takes the channel and everything behind it. `numbers` is the list that `machine` wrote: `5,7` when the descriptors
    /// after the channel are known as 5 and 7 on the command line.
    pub fn take_all(numbers: &str) -> Result<(OwnedFd, Self), NotFromMachine> {
        let channel = own(FIRST)?;
        let numbers = numbers.split(',').filter(|number| !number.is_empty());
        let mut taken = HashMap::new();
        for (number, at) in numbers.zip(FIRST + 1..) {
            taken.insert(number.parse().map_err(|_| NotFromMachine)?, own(at)?);
        }
        Ok((channel, Self(taken)))
    }

    /// Gives one out, once.
    pub fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        self.0.remove(&number)
    }
}

fn own(number: RawFd) -> Result<OwnedFd, NotFromMachine> {
    // SAFETY: F_GETFD reads a flag and is harmless on any number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(NotFromMachine);
    }
    // SAFETY: `machine` placed this descriptor for us at exec, and this runs once, before anything here opens one.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // What this process starts gets a list of its own.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Ok(fd)
}
