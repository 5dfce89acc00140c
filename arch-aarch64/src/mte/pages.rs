//! Mappings for this module's own use: scratch memory for the probe, buffers for the ioctl, windows on tags.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

/// Tags may be stored in and loaded from the mapping (`PROT_MTE` of arm64's asm/mman.h).
pub(super) const PROT_MTE: i32 = 0x20;

/// A mapping that this object owns.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; access goes through `&self` methods of the owners, which
// say what they share.
unsafe impl Send for Pages {}

impl Pages {
    /// Anonymous private memory.
    pub(super) fn anonymous(length: usize) -> io::Result<Self> {
        Self::map(length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// A part of a file, shared.
    pub(super) fn shared(file: &File, offset: u64, length: usize, prot: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        Self::map(length, prot, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    /// The start of a file, shared; huge pages are not taken from their pool before they are touched.
    pub(super) fn shared_without_reservation(file: &File, length: usize, prot: i32) -> io::Result<Self> {
        Self::map(length, prot, libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd(), 0)
    }

    fn map(length: usize, prot: i32, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { start, length })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Gives the kernel an advice about the whole mapping.
    pub(super) fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is exactly this mapping. No advice that discards data is given in this crate.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes all pages present and keeps them so.
    pub(super) fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is exactly this mapping.
        match unsafe { libc::mlock(self.start.as_ptr().cast(), self.length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; the owner is gone, and with it every pointer into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A fresh memfd of this size.
pub(super) fn memfd(length: usize, flags: u32) -> io::Result<File> {
    // SAFETY: the name is a C string; the call makes a new descriptor.
    let fd = unsafe { libc::memfd_create(c"granule-mte".as_ptr(), libc::MFD_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length as u64)?;
    Ok(file)
}

/// The size of a page of this kernel.
pub(crate) fn page_size() -> usize {
    // SAFETY: takes a number, returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
