//! Reads and writes tags by the instructions `LDG`, `STG` and `ST2G`, through a `PROT_MTE` mapping of guest memory.
//!
//! Tags are reached at EL0 whatever the process's tag checks are set to; data only where checks are off, as the pointers
//! used here carry tag 0. Such a mapping's pointers never go to a system call.
//!
//! Only the process that moves guest memory may make such a window; in all others seccomp refuses the bit.

use std::arch::asm;
use std::fs::File;
use std::io;

use thiserror::Error;
use vm_memory::VolatileSlice;

use super::GRANULE;
use super::pages::{PROT_MTE, Pages};

/// `HWCAP2_MTE` of arm64's asm/hwcap.h.
const HWCAP2_MTE: u64 = 1 << 18;

/// Why there is no window, or nothing to see in it.
#[derive(Debug, Error)]
pub enum TagWindowError {
    /// Not this processor, or switched off.
    #[error("this host's processor has no memory tagging")]
    NoMte,
    /// The kernel refuses `PROT_MTE` for this file.
    #[error("cannot map {length} bytes at offset {offset:#x} with tags: only a memfd or tmpfs file can be")]
    Map {
        /// Where in the file.
        offset: u64,
        /// How much.
        length: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Outside of the window, or not whole granules.
    #[error(
        "{granules} granules at offset {offset:#x} are not in a window of {length} bytes, or not on a granule"
    )]
    Range {
        /// Where in the window.
        offset: usize,
        /// How many.
        granules: usize,
        /// The window's size.
        length: usize,
    },
}

/// A view of the tags of a part of a memfd.
#[derive(Debug)]
pub struct TagWindow {
    pages: Pages,
}

impl TagWindow {
    /// Maps a part of a file, whole pages of it, with tags. Huge pages are refused for it: splitting one loses tags
    /// (docs/kernel-hazards.md).
    ///
    /// # Errors
    /// Where the processor has no tags or the file cannot have any.
    pub fn map(file: &File, offset: u64, length: usize) -> Result<Self, TagWindowError> {
        // SAFETY: takes a number, returns a number.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_MTE == 0 {
            return Err(TagWindowError::NoMte);
        }
        let refused = |source| TagWindowError::Map { offset, length, source };
        let prot = libc::PROT_READ | libc::PROT_WRITE | PROT_MTE;
        let pages = Pages::shared(file, offset, length, prot).map_err(refused)?;
        // A kernel without huge pages does not know the advice, and needs none.
        match pages.advise(libc::MADV_NOHUGEPAGE) {
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => Err(refused(e)),
            _ => Ok(Self { pages }),
        }
    }

    /// Bytes of memory that the window shows.
    #[must_use]
    pub fn length(&self) -> usize {
        self.pages.length()
    }

    /// The data of the same memory. To map it a second time would double the page faults.
    #[must_use]
    pub fn data(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping lives as long as what borrows it here, and memory that a guest writes to meanwhile is
        // accessed by volatile copies alone. With another tag than 0 it faults only where checks are on, and no process that
        // makes windows has them on.
        unsafe { VolatileSlice::new(self.pages.start().as_ptr(), self.pages.length()) }
    }

    /// Reads the tags of the granules from `offset` (in bytes, a whole number of granules) on, one into each byte.
    /// Reading a hole of the file allocates its page.
    ///
    /// # Errors
    /// Where the window does not hold them all.
    pub fn read(&self, offset: usize, tags: &mut [u8]) -> Result<(), TagWindowError> {
        let mut granule = self.check(offset, tags.len())?;
        for tag in tags {
            // SAFETY: `check` said that the granule lies in this live PROT_MTE mapping.
            *tag = unsafe { load_tag(granule) };
            granule = granule.wrapping_add(GRANULE);
        }
        Ok(())
    }

    /// Writes tags to the granules from `offset` on: the low four bits of each byte. Data is left alone.
    ///
    /// # Errors
    /// Where the window does not hold them all.
    pub fn write(&self, offset: usize, tags: &[u8]) -> Result<(), TagWindowError> {
        let mut granule = self.check(offset, tags.len())?;
        let mut rest = tags;
        loop {
            rest = match rest {
                [a, b, rest @ ..] if (a ^ b) & 0xf == 0 => {
                    // SAFETY: `check` said that both granules lie in this live PROT_MTE mapping.
                    unsafe { store_two_tags(granule, *a) };
                    granule = granule.wrapping_add(2 * GRANULE);
                    rest
                }
                [a, rest @ ..] => {
                    // SAFETY: as above, for one.
                    unsafe { store_tag(granule, *a) };
                    granule = granule.wrapping_add(GRANULE);
                    rest
                }
                [] => return Ok(()),
            }
        }
    }

    /// As [`read`](Self::read), two tags to the byte, the first in the low half; the length of `packed` is a multiple of
    /// 8.
    ///
    /// # Errors
    /// Where the window does not hold them all.
    pub fn read_packed(&self, offset: usize, packed: &mut [u8]) -> Result<(), TagWindowError> {
        let mut granule = self.check_packed(offset, packed.len())?;
        for word in packed.as_chunks_mut::<8>().0 {
            // SAFETY: `check_packed` said that all granules lie in this live PROT_MTE mapping.
            *word = unsafe { load_16_tags(granule) }.to_le_bytes();
            granule = granule.wrapping_add(16 * GRANULE);
        }
        Ok(())
    }

    /// As [`write`](Self::write), two tags to the byte, the first in the low half; the length of `packed` is a multiple of 8.
    ///
    /// # Errors
    /// Where the window does not hold them all.
    pub fn write_packed(&self, offset: usize, packed: &[u8]) -> Result<(), TagWindowError> {
        let mut granule = self.check_packed(offset, packed.len())?;
        for word in packed.as_chunks::<8>().0 {
            // SAFETY: `check_packed` said that all granules lie in this live PROT_MTE mapping.
            unsafe { store_16_tags(granule, u64::from_le_bytes(*word)) };
            granule = granule.wrapping_add(16 * GRANULE);
        }
        Ok(())
    }

    fn check_packed(&self, offset: usize, bytes: usize) -> Result<*mut u8, TagWindowError> {
        // Part of a word is refused as what no window holds.
        let granules = if bytes.is_multiple_of(8) { bytes.saturating_mul(2) } else { usize::MAX };
        self.check(offset, granules)
    }

    fn check(&self, offset: usize, granules: usize) -> Result<*mut u8, TagWindowError> {
        let length = self.pages.length();
        let fits = granules
            .checked_mul(GRANULE)
            .and_then(|bytes| bytes.checked_add(offset))
            .is_some_and(|end| end <= length && offset.is_multiple_of(GRANULE));
        if !fits {
            return Err(TagWindowError::Range { offset, granules, length });
        }
        Ok(self.pages.start().as_ptr().wrapping_add(offset))
    }
}

/// The pointer with a tag in its bits 56 to 59.
fn with_tag(granule: *mut u8, tag: u8) -> u64 {
    granule as u64 | u64::from(tag & 0xf) << 56
}

/// # Safety
/// The pointer, with tag 0, is to a granule of a mapping, and the processor has MTE.
unsafe fn load_tag(granule: *const u8) -> u8 {
    let mut pointer = granule as u64;
    // SAFETY: LDG reads the tag of the granule, which the caller vouches for, into the register's bits 56 to 59.
    unsafe {
        asm!(".arch_extension memtag", "ldg {p}, [{p}]", p = inout(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    (pointer >> 56 & 0xf) as u8
}

/// The tag of granule *n* in bits 4*n* to 4*n* + 3.
///
/// LDG changes nothing but bits 56 to 59 of its register: sixteen times one of it and a rotation, and each tag has come round
/// to two places before its own.
///
/// # Safety
/// The pointer, with tag 0, is to 16 granules of a mapping, and the processor has MTE.
unsafe fn load_16_tags(granules: *const u8) -> u64 {
    let mut tags = 0u64;
    macro_rules! load {
        ($($offset:literal)*) => {
            // SAFETY: LDG reads the tags of granules that the caller vouches for.
            unsafe {
                asm!(".arch_extension memtag",
                    $(concat!("ldg {t}, [{p}, #", $offset, "]"), "ror {t}, {t}, #4",)*
                    p = in(reg) granules, t = inout(reg) tags, options(nostack, readonly, preserves_flags));
            }
        };
    }
    load!(0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240);
    tags.rotate_left(8)
}

/// # Safety
/// The pointer, with tag 0, is to 16 granules of a mapping, and the processor has MTE.
unsafe fn store_16_tags(granules: *mut u8, tags: u64) {
    // STG takes bits 56 to 59: the first tag is brought there, and then the next.
    let tags = tags.rotate_right(8);
    macro_rules! store {
        ($($offset:literal)*) => {
            // SAFETY: STG writes the tags of granules that the caller vouches for, and no data.
            unsafe {
                asm!(".arch_extension memtag",
                    $(concat!("stg {t}, [{p}, #", $offset, "]"), "ror {t}, {t}, #4",)*
                    p = in(reg) granules, t = inout(reg) tags => _, options(nostack, preserves_flags));
            }
        };
    }
    store!(0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240);
}

/// # Safety
/// The pointer, with tag 0, is to a granule of a mapping, and the processor has MTE.
unsafe fn store_tag(granule: *mut u8, tag: u8) {
    // SAFETY: STG writes the tag of the granule, which the caller vouches for, and no data.
    unsafe {
        asm!(".arch_extension memtag", "stg {t}, [{p}]", t = in(reg) with_tag(granule, tag), p = in(reg) granule,
             options(nostack, preserves_flags));
    }
}

/// # Safety
/// The pointer, with tag 0, is to two granules of a mapping, and the processor has MTE.
unsafe fn store_two_tags(granule: *mut u8, tag: u8) {
    // SAFETY: ST2G writes the tags of two granules, which the caller vouches for, and no data.
    unsafe {
        asm!(".arch_extension memtag", "st2g {t}, [{p}]", t = in(reg) with_tag(granule, tag), p = in(reg) granule,
             options(nostack, preserves_flags));
    }
}
