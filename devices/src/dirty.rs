//! The log of writes to guest memory: which pages were written to since somebody looked.
//!
//! It is the log of vhost-user ("Migration"): a shared file with a bit for each 4 KiB of guest physical addresses from 0
//! on, bit `n % 8` of byte `n / 8`. Whoever writes to guest memory sets the bit *after* writing; whoever copies takes the
//! bits, in one step with clearing them, *before* reading. So a page that is written to while it is copied is named again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use vhost::vhost_user::VhostUserVirtioFeatures;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// VHOST_F_LOG_ALL: no feature of a device's, but the switch of a back end that can log what it writes.
pub const F_LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
/// What one bit stands for, whatever the host's page size.
pub const LOG_PAGE: u64 = 0x1000;
/// What one word stands for.
const LOG_WORD: u64 = LOG_PAGE * 64;

/// A log, to be handed on.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// The file; the log is at its beginning.
    pub file: Arc<File>,
    /// Bytes.
    pub size: u64,
}

impl LogFile {
    /// A new log for guest physical addresses below `end`, whose size nobody can change.
    pub fn create(end: u64) -> io::Result<Self> {
        let size = DirtyLog::size_for(end);
        let file = memfd_create("granule-dirty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, size)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file: Arc::new(file.into()), size })
    }

    /// Maps it.
    pub fn map(&self) -> io::Result<DirtyLog> {
        DirtyLog::map(self.file.try_clone()?, self.size, 0, self.size)
    }
}

/// A log, mapped.
#[derive(Debug)]
pub struct DirtyLog {
    map: MmapRegion<()>,
}

impl DirtyLog {
    /// The size of a log for guest physical addresses below `end`: a multiple of every page size.
    pub fn size_for(end: u64) -> u64 {
        end.div_ceil(LOG_WORD).saturating_mul(8).next_multiple_of(0x1_0000)
    }

    /// Maps `size` bytes of a file from `offset` on, which must be there: touching what is not would be a SIGBUS. How long
    /// the file is the caller has found out, by whichever call its jail has.
    pub fn map(file: File, length: u64, offset: u64, size: u64) -> io::Result<Self> {
        let end = offset.checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
        if size == 0 || length < end {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a log of a size that its file does not have",
            ));
        }
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let map = MmapRegion::from_file(FileOffset::new(file, offset), size).map_err(io::Error::other)?;
        Ok(Self { map })
    }

    /// Notes that `length` bytes from `address` on were written. What is beyond the log is nobody's.
    pub fn mark(&self, address: u64, length: u64) {
        let Some(last) = length.checked_sub(1).and_then(|more| address.checked_add(more)) else { return };
        let (first, last) = (address / LOG_PAGE, last / LOG_PAGE);
        for number in first / 64..=last / 64 {
            let Some(word) = self.word(number) else { return };
            let low = if number == first / 64 { first % 64 } else { 0 };
            let high = if number == last / 64 { last % 64 } else { 63 };
            // Always stored: that the bits were seen set may be older than a harvest, and the write newer.
            word.fetch_or(u64::MAX << low & u64::MAX >> (63 - high), Ordering::Release);
        }
    }

    /// Takes the pages within `range` that were written to, ascending by their addresses. Its ends are multiples of 256 KiB,
    /// or all beyond them within the same word is taken, too.
    pub fn take(&self, range: Range<u64>, mut found: impl FnMut(u64)) {
        for number in range.start / LOG_WORD..range.end.div_ceil(LOG_WORD) {
            let Some(word) = self.word(number) else { return };
            // Most are clear, and a look is cheaper.
            let mut bits = match word.load(Ordering::Relaxed) {
                0 => 0,
                _ => word.swap(0, Ordering::Acquire),
            };
            while bits != 0 {
                found(number * LOG_WORD + u64::from(bits.trailing_zeros()) * LOG_PAGE);
                bits &= bits - 1;
            }
        }
    }

    fn word(&self, number: u64) -> Option<&AtomicU64> {
        let offset = usize::try_from(number).ok()?.checked_mul(8)?;
        self.map.get_atomic_ref(offset).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn log(size: u64) -> (File, DirtyLog) {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        let log = DirtyLog::map(file.try_clone().unwrap(), size, 0, size).unwrap();
        (file, log)
    }

    fn taken(log: &DirtyLog) -> Vec<u64> {
        let mut pages = Vec::new();
        log.take(0..u64::MAX - LOG_WORD, |page| pages.push(page / LOG_PAGE));
        pages
    }

    #[test]
    fn what_is_marked_is_taken_once() {
        let (file, log) = log(DirtyLog::size_for(0x8000_0000));
        log.mark(0x4000_0fff, 2);
        log.mark(0x4000_0000, 0);
        log.mark(0x4003_f000, 0x2001);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0x4_0000 / 8).unwrap();
        assert_eq!(byte, [3], "bit n % 8 of byte n / 8");
        assert_eq!(taken(&log), [0x4_0000, 0x4_0001, 0x4_003f, 0x4_0040, 0x4_0041]);
        assert!(taken(&log).is_empty());
    }

    #[test]
    fn what_is_beyond_the_log_is_nobodys() {
        let (_, log) = log(8);
        log.mark(63 * LOG_PAGE, 2 * LOG_PAGE);
        log.mark(u64::MAX, 1);
        log.mark(u64::MAX, 2);
        log.mark(1 << 60, u64::MAX);
        assert_eq!(taken(&log), [63]);
    }

    #[test]
    fn a_file_that_is_shorter_than_its_log_is_refused() {
        let (file, _) = log(4096);
        assert!(DirtyLog::map(file.try_clone().unwrap(), 4096, 0, 8192).is_err());
        assert!(DirtyLog::map(file.try_clone().unwrap(), 4096, u64::MAX, 8).is_err());
        assert!(DirtyLog::map(file, 4096, 0, 0).is_err());
    }
}
