//! The memory that a front end shares, and the names that it has for addresses in it.

use std::fs::File;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestRegionMmap};

use super::ring::Memory;

struct Region {
    name: u64,
    size: u64,
    guest: u64,
}

/// Guest memory, and the front end's address space, by which it names rings.
pub(super) struct SharedMemory {
    pub mapped: GuestMemoryAtomic<Memory>,
    regions: Vec<Region>,
}

impl SharedMemory {
    /// No memory yet.
    pub fn new() -> Self {
        Self { mapped: GuestMemoryAtomic::new(Memory::new()), regions: Vec::new() }
    }

    /// Maps what the front end shares, in the place of what it has shared before.
    ///
    /// A region that is longer than its file is refused: touching its end would be a SIGBUS.
    pub fn replace(&mut self, table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut mapped = Vec::with_capacity(table.len());
        let mut regions = Vec::with_capacity(table.len());
        for (region, file) in table.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            let mapping =
                GuestRegionMmap::new(region.mmap_region(file)?, start).ok_or(Error::InvalidParam)?;
            mapped.push(mapping);
            regions.push(Region {
                name: region.user_addr,
                size: region.memory_size,
                guest: region.guest_phys_addr,
            });
        }
        let memory = Memory::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
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
