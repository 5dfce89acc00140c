//! Reads and writes between files and guest memory: the calls that take raw memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Reads from `offset` of `file` into `slices`; how much may be less than they hold.
pub(super) fn read_at(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let (count, offset) = checked(&vectors, offset)?;
    // SAFETY: each vector is a slice of mapped guest memory, which the guards keep; the kernel writes no more than its
    // length, and guest memory has no other rules about who writes when.
    let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Writes `slices` to `offset` of `file`; how much may be less than they hold.
pub(super) fn write_at(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard).collect();
    let vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: guard.len() })
        .collect();
    let (count, offset) = checked(&vectors, offset)?;
    // SAFETY: each vector is a slice of mapped guest memory, which the guards keep; the kernel only reads it.
    let written = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

fn checked(vectors: &[libc::iovec], offset: u64) -> io::Result<(libc::c_int, libc::off_t)> {
    let count = libc::c_int::try_from(vectors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((count, offset))
}
