//! Copies the boot files into guest memory.
//!
//! A file goes from the page cache to guest memory in one copy, in one of two ways:
//!
//! - [`load`] reads into the mapping. It works for any memory, and makes pages as the mapping was advised to.
//! - [`load_into_file`] writes to the memfd. It takes a third less time, since no page is cleared before it is filled, and
//!   no page fault is taken. But the kernel makes pages then by the host's setting for shared memory alone, and none of
//!   them is mapped yet: unless the caller maps them together (MADV_POPULATE_READ), the guest's exits do one by one, which
//!   takes longer than was gained.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use thiserror::Error;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryError};

use super::plan::BootPlan;
use crate::fdt;
use crate::layout::Gpa;

/// Why a file did not get into guest memory.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file ended before what was seen of it when it was inspected.
    #[error("the {what} file became shorter while it was loaded: {missing} of {expected} bytes are missing")]
    Truncated {
        /// `kernel` or `initramfs`.
        what: &'static str,
        /// Bytes that were missing.
        missing: u64,
        /// Bytes that there should have been.
        expected: u64,
    },
    /// Reading failed.
    #[error("cannot read the {what} file into guest memory")]
    Read {
        /// `kernel` or `initramfs`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The plan speaks of memory that the VM does not have.
    #[error("no guest memory for {what} at {address:#x}")]
    NoMemory {
        /// What was to be loaded.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
    /// The device tree is larger than what the plan left free for it.
    #[error("the device tree has {0} bytes; there is room for {MAX_SIZE}", MAX_SIZE = fdt::MAX_SIZE)]
    FdtTooLarge(usize),
    /// A plan with an initramfs needs its file, one without takes none.
    #[error("the boot plan and the files given differ about an initramfs")]
    InitramfsMismatch,
}

/// Copies kernel and initramfs to their places.
///
/// The files must be those that the plan was made from; their positions are neither used nor changed.
///
/// # Errors
/// Where a file changed since, or guest memory is not what the plan says.
pub fn load<M: GuestMemoryBackend>(
    plan: &BootPlan,
    kernel: &File,
    initramfs: Option<&File>,
    memory: &M,
) -> Result<(), LoadError> {
    copy(memory, plan.kernel().base(), kernel, plan.kernel_bytes(), "kernel")?;
    match (plan.initramfs(), initramfs) {
        (Some(window), Some(file)) => copy(memory, window.base(), file, window.size(), "initramfs"),
        (None, None) => Ok(()),
        _ => Err(LoadError::InitramfsMismatch),
    }
}

/// Copies kernel and initramfs to their places in the file that backs RAM from its first byte on.
///
/// Not for a VM with memory tagging on a host whose setting of huge pages for shared memory
/// ([`crate::host::FileReport::shmem_huge_pages`]) is `always`, `within_size` or `force`: no mapping's advice keeps
/// the kernel from making a huge page here, and splitting one loses tags (docs/kernel-hazards.md).
///
/// # Errors
/// Where a file changed since, or RAM's file cannot be written.
pub fn load_into_file(
    plan: &BootPlan,
    kernel: &File,
    initramfs: Option<&File>,
    ram: &File,
) -> Result<(), LoadError> {
    let offset = |address: Gpa| address.0 - plan.ram().base().0;
    send(ram, offset(plan.kernel().base()), kernel, plan.kernel_bytes(), "kernel")?;
    match (plan.initramfs(), initramfs) {
        (Some(window), Some(file)) => send(ram, offset(window.base()), file, window.size(), "initramfs"),
        (None, None) => Ok(()),
        _ => Err(LoadError::InitramfsMismatch),
    }
}

/// Copies the device tree to its place.
///
/// # Errors
/// Where it is too large or guest memory is not what the plan says.
pub fn write_fdt<M: GuestMemoryBackend>(plan: &BootPlan, blob: &[u8], memory: &M) -> Result<(), LoadError> {
    if blob.len() > fdt::MAX_SIZE {
        return Err(LoadError::FdtTooLarge(blob.len()));
    }
    memory.write_slice(blob, plan.fdt()).map_err(|source| LoadError::NoMemory {
        what: "the device tree",
        address: plan.fdt().0,
        source,
    })
}

fn copy<M: GuestMemoryBackend>(
    memory: &M,
    address: Gpa,
    file: &File,
    size: u64,
    what: &'static str,
) -> Result<(), LoadError> {
    let no_memory = |source| LoadError::NoMemory { what, address: address.0, source };
    // RAM is one range and one mapping, so that one slice holds the whole file.
    let length =
        usize::try_from(size).map_err(|_| no_memory(GuestMemoryError::InvalidGuestAddress(address)))?;
    let place = memory.get_slice(address, length).map_err(no_memory)?;
    let mut done = 0;
    while done < length {
        let rest = place.offset(done).map_err(|e| no_memory(e.into()))?;
        match sys::pread(file, &rest, done as u64) {
            Ok(0) => {
                return Err(LoadError::Truncated { what, missing: (length - done) as u64, expected: size });
            }
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LoadError::Read { what, source }),
        }
    }
    Ok(())
}

fn send(ram: &File, at: u64, file: &File, size: u64, what: &'static str) -> Result<(), LoadError> {
    let read = |source| LoadError::Read { what, source };
    let mut position = ram;
    position.seek(SeekFrom::Start(at)).map_err(read)?;
    let mut done = 0;
    while done < size {
        match sys::sendfile(ram, file, done, size - done) {
            Ok(0) => return Err(LoadError::Truncated { what, missing: size - done, expected: size }),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(read(source)),
        }
    }
    Ok(())
}

mod sys {
    //! The system calls that copy, one with a pointer to guest memory.

    use super::{AsRawFd, File, io};
    use vm_memory::VolatileSlice;
    use vm_memory::bitmap::BitmapSlice;

    /// Reads from the file at an offset into guest memory; may read less than the slice holds.
    pub(super) fn pread<B: BitmapSlice>(
        file: &File,
        slice: &VolatileSlice<B>,
        offset: u64,
    ) -> io::Result<usize> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the guard's pointer is valid for writes of the slice's length for as long as the guard lives, and
        // guest memory may be written by anyone at any time, the kernel included.
        let n = unsafe { libc::pread(file.as_raw_fd(), guard.as_ptr().cast(), slice.len(), offset) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        slice.bitmap().mark_dirty(0, n);
        Ok(n)
    }

    /// Copies from an offset of one file to the position of another; may copy less than asked for.
    pub(super) fn sendfile(to: &File, from: &File, offset: u64, size: u64) -> io::Result<u64> {
        let mut offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        // SAFETY: the only pointer is to a local.
        let n = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut offset, size) };
        u64::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
