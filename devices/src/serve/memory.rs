//! The memory that a front end shares, and the names that it has for addresses in it.

use std::fs::File;

use rustix::fs::OFlags;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryAtomic, GuestRegionMmap, MmapRegion};

use super::ring::Memory;
use crate::userfault::{Late, Mapped};

struct Region {
    name: u64,
    size: u64,
    guest: u64,
}

/// Guest memory, and the front end's address space, by which it names rings.
pub(super) struct SharedMemory {
    pub mapped: GuestMemoryAtomic<Memory>,
    regions: Vec<Region>,
    /// Whom mappings are announced to before they are touched, where pages may be missing.
    late: Option<Late>,
}

impl SharedMemory {
    /// No memory yet.
    pub fn new(late: Option<Late>) -> Self {
        Self { mapped: GuestMemoryAtomic::new(Memory::new()), regions: Vec::new(), late }
    }

    /// Maps what the front end shares, in the place of what it has shared before.
    ///
    /// A region that is longer than its file is refused: touching its end would be a SIGBUS.
    pub fn replace(&mut self, table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut mapped = Vec::with_capacity(table.len());
        let mut regions = Vec::with_capacity(table.len());
        for (region, file) in table.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            check_length(region, &file)?;
            let mapping = GuestRegionMmap::new(map(region, file)?, start).ok_or(Error::InvalidParam)?;
            mapped.push(mapping);
            regions.push(Region {
                name: region.user_addr,
                size: region.memory_size,
                guest: region.guest_phys_addr,
            });
        }
        let memory = Memory::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
        if let Some(late) = &mut self.late {
            let announced = late.announce(&Mapped::all(&memory));
            announced.map_err(|error| Error::ReqHandlerError(std::io::Error::other(error)))?;
        }
        self.mapped.lock().map_err(|_| Error::InvalidParam)?.replace(memory);
        self.regions = regions;
        Ok(())
    }

    /// The guest-physical address that the front end calls `name`.
    pub fn guest_address(&self, name: u64) -> Result<u64> {
        let within = |region: &Region| {
            let offset = name.checked_sub(region.name).filter(|offset| *offset < region.size)?;
            region.guest.checked_add(offset)
        };
        self.regions.iter().find_map(within).ok_or(Error::InvalidParam)
    }
}

/// Maps a region; one whose file is open for reading alone is mapped such that stores stay in this process.
///
/// That is memory which the guest may only read. A guest that has a device write there all the same gets nothing, and the
/// process neither dies of it nor changes what others read.
fn map(region: &VhostUserMemoryRegion, file: File) -> Result<MmapRegion> {
    let failed = |error| Error::ReqHandlerError(std::io::Error::other(error));
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| Error::ReqHandlerError(error.into()))?;
    if flags & OFlags::ACCMODE != OFlags::RDONLY {
        return region.mmap_region(file);
    }
    let size = usize::try_from(region.memory_size).map_err(|_| Error::InvalidParam)?;
    MmapRegionBuilder::new(size)
        .with_file_offset(FileOffset::new(file, region.mmap_offset))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(failed)
}

/// Whether `file` reaches as far as `region`; `vm-memory` does not ask.
fn check_length(region: &VhostUserMemoryRegion, file: &File) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(|error| Error::ReqHandlerError(error.into()))?;
    let end = region.mmap_offset.checked_add(region.memory_size);
    let fits = end.zip(u64::try_from(stat.st_size).ok()).is_some_and(|(end, length)| end <= length);
    if fits { Ok(()) } else { Err(Error::InvalidParam) }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const PAGE: u64 = 0x1_0000;

    fn file(pages: u64) -> File {
        let file = File::from(memfd_create("shared", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(pages * PAGE).unwrap();
        file
    }

    fn region(guest: u64, pages: u64, name: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, pages * PAGE, name, offset)
    }

    #[test]
    fn names_are_translated_within_their_region_only() {
        let mut memory = SharedMemory::new(None);
        let table = [region(0x4000_0000, 1, 0x7f00_0000_0000, 0), region(0x8000_0000, 1, 0x1000, PAGE)];
        memory.replace(&table, vec![file(2), file(2)]).unwrap();
        assert_eq!(memory.guest_address(0x7f00_0000_0010).unwrap(), 0x4000_0010);
        assert_eq!(memory.guest_address(0x1000 + PAGE - 1).unwrap(), 0x8000_0000 + PAGE - 1);
        for name in [0, 0xfff, 0x1000 + PAGE, 0x4000_0000, u64::MAX] {
            assert!(memory.guest_address(name).is_err(), "{name:#x}");
        }
    }

    #[test]
    fn a_store_to_memory_that_may_only_be_read_stays_in_the_process() {
        use vm_memory::{Bytes, GuestAddressSpace};

        let writable = file(1);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable));
        let mut memory = SharedMemory::new(None);
        memory.replace(&[region(0x4000_0000, 1, 0, 0)], vec![File::open(path).unwrap()]).unwrap();
        let mapped = memory.mapped.memory();
        mapped.write_obj(7u8, GuestAddress(0x4000_0000)).unwrap();
        let mut byte = [1];
        std::os::unix::fs::FileExt::read_exact_at(&writable, &mut byte, 0).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn a_region_longer_than_its_file_is_refused() {
        let mut memory = SharedMemory::new(None);
        assert!(memory.replace(&[region(0, 2, 0, 0)], vec![file(1)]).is_err());
        assert!(memory.replace(&[region(0, 1, 0, PAGE)], vec![file(1)]).is_err());
        assert!(memory.replace(&[region(0, 1, 0, u64::MAX - PAGE + 1)], vec![file(1)]).is_err());
    }

    #[test]
    fn overlapping_regions_are_refused_and_the_old_ones_stay() {
        let mut memory = SharedMemory::new(None);
        memory.replace(&[region(0x4000_0000, 1, 0, 0)], vec![file(1)]).unwrap();
        let overlapping = [region(0x4000_0000, 2, 0, 0), region(0x4000_0000 + PAGE, 1, 2 * PAGE, 0)];
        assert!(memory.replace(&overlapping, vec![file(2), file(1)]).is_err());
        assert_eq!(memory.guest_address(8).unwrap(), 0x4000_0008);
    }
}
