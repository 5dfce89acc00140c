//! Guest memory: one fresh, sealed memfd, mapped MAP_SHARED.
//!
//! Device processes map the same memfd, so it may never change its size under them (seals), and no mapping of tagged
//! memory may use huge pages: splitting one can silently zero tags (docs/kernel-hazards.md, "Tag loss when a huge
//! page is split").

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mm::{Advice, madvise};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// memfd, its size or its seals.
    #[error("cannot make a memory file of {bytes} bytes")]
    Memfd {
        /// Requested size.
        bytes: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The mapping.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// Requested size.
        bytes: u64,
        /// The system's answer.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The advice against huge pages.
    #[error("cannot keep huge pages away from tagged memory")]
    Advice(#[source] io::Error),
    /// Touching all of it, as asked.
    #[error("cannot prefault guest memory")]
    Prefault(#[source] io::Error),
    /// The address range wraps.
    #[error("guest memory of {0} bytes does not fit the address space")]
    Range(u64),
}

/// How guest memory is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKind {
    /// Transparent huge pages may be used. Never for tagged memory.
    pub huge_pages: bool,
    /// Every page is touched at once.
    pub prefault: bool,
}

impl MemoryKind {
    /// Whether a memory file that is written to by system calls gets the pages that its mapping was advised to have. The
    /// kernel goes by `setting` there, the host's setting of huge pages for shared memory, and not by the advice.
    pub fn is_kept_by_writes(self, setting: Option<&str>) -> bool {
        match setting {
            Some("never" | "deny") => true,
            Some("advise") => !self.huge_pages,
            _ => false,
        }
    }
}

/// The guest's memory as this process sees it.
#[derive(Debug, Clone)]
pub struct GuestRam {
    /// For devices and loaders.
    pub memory: Arc<GuestMemoryMmap<()>>,
}

impl GuestRam {
    /// Allocates `bytes` at guest physical address `base`, and room for `spare` bytes behind them. Pages come into being when
    /// they are touched, or now; those of the room only when they are touched.
    pub fn new(base: u64, bytes: u64, spare: u64, kind: MemoryKind) -> Result<Self, MemoryError> {
        let touched = bytes;
        let bytes = bytes.checked_add(spare).ok_or(MemoryError::Range(bytes))?;
        let file = memfd(bytes).map_err(|source| MemoryError::Memfd { bytes, source })?;
        let size = usize::try_from(bytes).map_err(|_| MemoryError::Range(bytes))?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size)
            .map_err(|source| MemoryError::Map { bytes, source })?;
        // No longer than the mapping, whose length was checked.
        advise(&region, touched as usize, kind)?;
        let region = GuestRegionMmap::new(region, GuestAddress(base)).ok_or(MemoryError::Range(bytes))?;
        let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(|_| MemoryError::Range(bytes))?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// The file behind all of it.
    pub fn file(&self) -> Option<&File> {
        Some(self.memory.iter().next()?.file_offset()?.file())
    }
}

/// Sets what the kernel may do with the mapping, and touches it if wanted.
fn advise(region: &MmapRegion<()>, touched: usize, kind: MemoryKind) -> Result<(), MemoryError> {
    let huge = if kind.huge_pages { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
    // SAFETY: the range is exactly the mapping that `region` owns; the advice keeps its contents.
    let advised = unsafe { madvise(region.as_ptr().cast(), region.size(), huge) };
    match advised {
        // A kernel without transparent huge pages refuses the advice; then there are none to ask for.
        Err(errno) if !kind.huge_pages && errno != rustix::io::Errno::INVAL => {
            return Err(MemoryError::Advice(errno.into()));
        }
        _ => {}
    }
    if kind.prefault {
        // SAFETY: within the mapping, as above; the pages are fresh, so touching them for writing changes no contents.
        unsafe { madvise(region.as_ptr().cast(), touched, Advice::LinuxPopulateWrite) }
            .map_err(|errno| MemoryError::Prefault(errno.into()))?;
    }
    Ok(())
}

/// A fresh memory file that can no longer change its size.
fn memfd(bytes: u64) -> io::Result<File> {
    let fd = memfd_create("granule-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, bytes)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn writes_keep_tagged_memory_in_small_pages_only_where_the_host_says_so() {
        let small = MemoryKind { huge_pages: false, prefault: false };
        let huge = MemoryKind { huge_pages: true, prefault: false };
        for setting in [Some("never"), Some("deny")] {
            assert!(small.is_kept_by_writes(setting) && huge.is_kept_by_writes(setting));
        }
        assert!(small.is_kept_by_writes(Some("advise")) && !huge.is_kept_by_writes(Some("advise")));
        for setting in [Some("always"), Some("within_size"), Some("force"), Some("new"), None] {
            assert!(!small.is_kept_by_writes(setting) && !huge.is_kept_by_writes(setting));
        }
    }

    #[test]
    fn memory_is_shared_through_its_file_and_cannot_be_resized() {
        let ram =
            GuestRam::new(0x4000_0000, 4 << 20, 0, MemoryKind { huge_pages: false, prefault: true }).unwrap();
        ram.memory.write_obj(0x1234_5678u32, GuestAddress(0x4000_1000)).unwrap();
        let region = ram.memory.iter().next().unwrap();
        let file = region.file_offset().unwrap().file();
        let mut seen = [0u8; 4];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut seen, 0x1000).unwrap();
        assert_eq!(u32::from_le_bytes(seen), 0x1234_5678);
        assert!(file.set_len(8 << 20).is_err());
        assert!(file.set_len(0).is_err());
    }
}
