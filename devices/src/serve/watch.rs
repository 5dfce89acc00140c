//! What a device wants the loop to wait for, and what comes of it.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;

/// A file that the loop waits for on behalf of a device.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// What to wait for; errors and hang-ups are told unasked.
    pub flags: PollFlags,
    /// By what name the device wants to be told.
    pub token: u64,
}

/// The queues that have work although nobody has kicked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake(u64);

impl Wake {
    /// Has `queue` served; there is no queue beyond the 63rd.
    pub fn queue(&mut self, queue: u16) {
        self.0 |= 1u64.checked_shl(queue.into()).unwrap_or(0);
    }

    /// Whether `queue` is to be served.
    pub fn contains(self, queue: u16) -> bool {
        self.0 & 1u64.checked_shl(queue.into()).unwrap_or(0) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_are_named_are_woken_and_no_others() {
        let mut wake = Wake::default();
        for queue in [0, 5, 63, 64, u16::MAX] {
            wake.queue(queue);
        }
        let woken: Vec<u16> = (0..=u16::MAX).filter(|queue| wake.contains(*queue)).collect();
        assert_eq!(woken, [0, 5, 63]);
    }
}
