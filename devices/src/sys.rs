//! The few calls to the kernel that no crate wraps safely for the types at hand.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

/// Whether reading `eventfd` would return at once.
pub(crate) fn readable(eventfd: &EventFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(borrow(eventfd), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Borrows a descriptor from an owner whose crate does not know `AsFd`.
pub(crate) fn borrow(owner: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps its descriptor open at least as long as it is borrowed itself.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Bytes in a page of the host. Without a system call, which `rustix` would make the first time.
pub(crate) fn page_size() -> u64 {
    // SAFETY: reads a number that the kernel gave the process at its start.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // There is no host with smaller ones, nor one without any.
    u64::try_from(size).unwrap_or(4096)
}
