//! Guest memory that is not there yet: a process that maps it hands its userfaultfd to the mover, which places pages.
//!
//! ```text
//!   machine, device process                               mover
//!     map guest memory
//!     Userfault::of(/dev/userfaultfd) ── Announcement, userfaultfd ──► UFFDIO_API, UFFDIO_REGISTER MISSING|MINOR
//!     (touches nothing)              ◄── Registered ──────────────────
//!     touches a page: waits ─────────── fault, by the userfaultfd ──► data and tags through aliases, UFFDIO_CONTINUE
//!                                    ◄── Complete, once all is there ── UFFDIO_UNREGISTER
//! ```
//! A userfaultfd belongs to the address space of the process that made it, so each makes its own; that one ioctl is all that
//! it needs, the mover does the rest. Whoever has announced keeps its userfaultfd open: were the mover's the only one,
//! its death would let those who wait go on with pages that are not whole (`models/src/placement`, `DeathClosesFd`).

mod announce;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use announce::{Announcement, Answer, Late, LateError, Mapped, tell};

/// A userfaultfd of some process's address space. It sees faults of the kernel on behalf of that process, too.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

/// What happened to the pages that were to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continued {
    /// So many bytes from the first on are mapped now, and who waited for them goes on.
    Mapped(u64),
    /// The first page was mapped already.
    Before,
    /// The first page is a hole of the file: there is nothing to map.
    Hole,
    /// That address space, or its mapping, is gone.
    Gone,
}

impl Userfault {
    /// Makes one of this process. `device` is `/dev/userfaultfd`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(device: BorrowedFd<'_>) -> io::Result<Self> {
        sys::open(device).map(Self)
    }

    /// Takes what another process has made. What it is shows at [`agree`](Self::agree).
    #[must_use]
    pub fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Agrees with the kernel that it reports holes and unmapped pages of shared memory. The first call.
    ///
    /// # Errors
    /// Where the kernel cannot, or this is no userfaultfd.
    pub fn agree(&self) -> io::Result<()> {
        sys::agree(self.as_fd())
    }

    /// Has every page of these addresses wait that is a hole, or is there but not mapped.
    ///
    /// # Errors
    /// Where that is no mapping of shared memory.
    pub fn register(&self, addresses: Range<u64>) -> io::Result<()> {
        sys::register(self.as_fd(), addresses)
    }

    /// The opposite; who waits goes on.
    ///
    /// # Errors
    /// Where that is no mapping.
    pub fn unregister(&self, addresses: Range<u64>) -> io::Result<()> {
        sys::unregister(self.as_fd(), addresses)
    }

    /// Maps pages that are there, from the first address on, and wakes who waits for them.
    ///
    /// # Errors
    /// Others than those that [`Continued`] names.
    pub fn proceed(&self, addresses: Range<u64>) -> io::Result<Continued> {
        sys::proceed(self.as_fd(), addresses)
    }

    /// Wakes who waits for these pages, which are mapped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wake(&self, addresses: Range<u64>) -> io::Result<()> {
        sys::wake(self.as_fd(), addresses)
    }

    /// The addresses for which somebody waits, those that are not yet read; a few at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn faults(&self, addresses: &mut Vec<u64>) -> io::Result<()> {
        sys::faults(self.as_fd(), addresses)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Userfault> for OwnedFd {
    fn from(userfault: Userfault) -> Self {
        userfault.0
    }
}
