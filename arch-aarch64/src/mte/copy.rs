//! Reads a guest's tags by `KVM_ARM_MTE_COPY_TAGS` (KVM's api.rst, 4.130).
//!
//! What the ioctl does beyond its name, and what that asks of callers:
//!
//! - it holds the VM's `slots_lock` for the whole call: the calls here are cut to [`TagBuffer`]'s size;
//! - it *allocates* the pages it reads: skip the holes of a memfd first, they have neither data nor tags;
//! - it waits for pages under userfaultfd with that lock held: never call it while pages are missing.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::kvm_arm_copy_mte_tags;
use kvm_ioctls::VmFd;
use thiserror::Error;

use super::GRANULE;
use super::pages::{Pages, page_size};
use crate::layout::Gpa;

/// `_IOR(KVMIO, 0xb4, struct kvm_arm_copy_mte_tags)`; `kvm-ioctls` has no wrapper.
const KVM_ARM_MTE_COPY_TAGS: libc::Ioctl = 0x8030_aeb4_u32 as libc::Ioctl;

/// The flag of the ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToGuest = 0,
    FromGuest = 1,
}

/// Why tags could not be read.
#[derive(Debug, Error)]
pub enum CopyTagsError {
    /// No whole pages.
    #[error("tags are read by whole pages of {page} bytes: {length} bytes at {address:#x} are not that")]
    Unaligned {
        /// Where.
        address: u64,
        /// How much.
        length: u64,
        /// The kernel's page.
        page: usize,
    },
    /// The VM has no memory there.
    #[error("the guest has no memory at {0:#x}")]
    NoMemory(u64),
    /// The ioctl failed.
    #[error("cannot read the tags of guest memory at {address:#x}")]
    Ioctl {
        /// Where.
        address: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the kernel puts tags, one byte per granule: private memory that is present and stays so.
///
/// If the kernel had to fault the buffer in during a copy *to* the guest it could hang the host; this type is used
/// for reading only, and takes the same care so that no read is cut short.
#[derive(Debug)]
pub struct TagBuffer {
    pages: Pages,
}

impl TagBuffer {
    /// A buffer for the tags of this many pages of guest memory. 64 to 256 are a good size: the VM's other
    /// users wait no longer than one call.
    ///
    /// # Errors
    /// Where memory cannot be had or locked (`RLIMIT_MEMLOCK`).
    pub fn new(guest_pages: usize) -> io::Result<Self> {
        let page = page_size();
        let length = (guest_pages.max(1) * page / GRANULE).next_multiple_of(page);
        let pages = Pages::anonymous(length)?;
        pages.advise(libc::MADV_NOHUGEPAGE)?;
        pages.advise(libc::MADV_DONTFORK)?;
        pages.lock()?;
        Ok(Self { pages })
    }

    /// Bytes of guest memory whose tags fit.
    fn capacity(&self) -> u64 {
        (self.pages.length() * GRANULE) as u64
    }

    pub(super) fn tags(&self, count: usize) -> &[u8] {
        debug_assert!(count <= self.pages.length());
        // SAFETY: the mapping is readable, has at least `count` bytes, belongs to this object, and is written only by
        // the kernel during calls that borrow it mutably.
        unsafe { std::slice::from_raw_parts(self.pages.start().as_ptr(), count) }
    }

    /// Puts tags in, of which there must be no more than fit.
    pub(super) fn set(&mut self, tags: &[u8]) {
        assert!(tags.len() <= self.pages.length(), "more tags than the buffer holds");
        // SAFETY: the mapping is writable, has room for all, and is borrowed mutably; the source is another object.
        unsafe { self.pages.start().as_ptr().copy_from_nonoverlapping(tags.as_ptr(), tags.len()) };
    }
}

/// Reads the tags of a range of guest memory, in order, and hands them over in pieces: the address of a piece
/// and one byte per granule, of which the low four bits are the tag.
///
/// # Errors
/// Where the range is not whole pages, or the guest has no memory in all of it.
pub fn read_tags(
    vm: &VmFd,
    address: Gpa,
    length: u64,
    buffer: &mut TagBuffer,
    mut piece: impl FnMut(Gpa, &[u8]),
) -> Result<(), CopyTagsError> {
    let page = page_size();
    let unaligned = || CopyTagsError::Unaligned { address: address.0, length, page };
    let end = address.0.checked_add(length).ok_or_else(unaligned)?;
    if !(address.0 | length).is_multiple_of(page as u64) {
        return Err(unaligned());
    }
    let mut at = address.0;
    while at < end {
        let now = (end - at).min(buffer.capacity());
        let copied = copy(vm, Direction::FromGuest, at, now, buffer).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EFAULT) => CopyTagsError::NoMemory(at),
                _ => CopyTagsError::Ioctl { address: at, source },
            }
        })?;
        // A short count is progress: the next call tells why it ended there.
        if copied == 0 {
            return Err(CopyTagsError::NoMemory(at));
        }
        // No more than the capacity was asked for.
        piece(Gpa(at), buffer.tags(copied as usize / GRANULE));
        at += copied;
    }
    Ok(())
}

/// One call. Returns the bytes of *guest memory* whose tags were copied, which may be fewer than asked for.
pub(super) fn copy(
    vm: &VmFd,
    direction: Direction,
    address: u64,
    length: u64,
    buffer: &mut TagBuffer,
) -> io::Result<u64> {
    let length = length.min(buffer.capacity());
    let request = kvm_arm_copy_mte_tags {
        guest_ipa: address,
        length,
        addr: buffer.pages.start().as_ptr().cast(),
        flags: direction as u64,
        reserved: [0; 2],
    };
    // SAFETY: the descriptor is a VM's; the buffer holds a byte for each granule of `length`, which was cut to it, and is
    // borrowed mutably for the call.
    let copied = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_ARM_MTE_COPY_TAGS, &raw const request) };
    u64::try_from(copied).map_err(|_| io::Error::last_os_error())
}
