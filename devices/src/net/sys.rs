//! What taps are told in the jail: `TUNSETOFFLOAD`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::spec::TUNSETOFFLOAD;

/// Tells a tap which packets its reader takes.
pub(super) fn set_offloads(tap: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    // SAFETY: the request takes a number, not a pointer; a file that is no tap refuses it.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
