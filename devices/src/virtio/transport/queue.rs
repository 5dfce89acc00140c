//! One queue as the driver sets it up, and the check of what it alleges.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::state::QueueState;
use crate::virtio::fault::{GuestFault, Ring};
use crate::virtio::spec::{NO_VECTOR, used_ring_size};

/// The registers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueConfig {
    pub max_size: u16,
    pub size: u16,
    pub vector: u16,
    pub enabled: bool,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// Where in the available ring a queue that was stopped for a snapshot goes on.
    pub next_available: u16,
}

impl QueueConfig {
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
        }
    }

    /// The registers, as they are saved.
    pub fn save(&self) -> QueueState {
        let Self { max_size: _, size, vector, enabled, descriptors, available, used, next_available } = *self;
        QueueState { size, vector, enabled, descriptors, available, used, next_available }
    }

    /// Puts registers back; answers the size if the queue cannot have it. Where the rings are is checked when the queue
    /// is started, as always.
    pub fn restore(&mut self, saved: &QueueState) -> Result<(), u16> {
        let QueueState { size, vector, enabled, descriptors, available, used, next_available } = *saved;
        if !size.is_power_of_two() || size > self.max_size {
            return Err(size);
        }
        let max_size = self.max_size;
        *self = Self { max_size, size, vector, enabled, descriptors, available, used, next_available };
        Ok(())
    }

    /// Takes a size if it is one; a driver that writes another keeps the last (virtio 1.2, §4.1.4.3.2).
    pub fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    /// The three areas with alignment and size (virtio 1.2, §2.7), the event indexes included.
    fn areas(&self) -> [(Ring, u64, u64, u64); 3] {
        let size = u64::from(self.size);
        [
            (Ring::Descriptors, self.descriptors, 16, 16 * size),
            (Ring::Available, self.available, 2, 6 + 2 * size),
            (Ring::Used, self.used, 4, self.used_size()),
        ]
    }

    /// Bytes of the used ring, its event index included.
    pub fn used_size(&self) -> u64 {
        used_ring_size(self.size)
    }

    /// Checks that every area is aligned and lies within one region of `memory`.
    ///
    /// One region, not several that adjoin: a back end maps each region where it likes.
    pub fn check(&self, queue: u16, memory: &impl GuestMemoryBackend) -> Result<(), GuestFault> {
        for (ring, address, alignment, size) in self.areas() {
            if !address.is_multiple_of(alignment) {
                return Err(GuestFault::Unaligned { queue, ring, address, alignment });
            }
            let last = address.checked_add(size - 1);
            let region = memory.find_region(GuestAddress(address));
            let fits = last.zip(region).is_some_and(|(last, region)| last <= region.last_addr().raw_value());
            if !fits {
                return Err(GuestFault::OutsideMemory { queue, ring, address, size });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    const RAM: u64 = 0x4000_0000;

    /// Two regions that adjoin.
    fn memory() -> GuestMemoryMmap<()> {
        let range = |base| (GuestAddress(base), 0x1_0000);
        GuestMemoryMmap::from_ranges(&[range(RAM), range(RAM + 0x1_0000)]).unwrap()
    }

    fn queue() -> QueueConfig {
        QueueConfig { descriptors: RAM, available: RAM + 0x2000, used: RAM + 0x3000, ..QueueConfig::new(256) }
    }

    #[test]
    fn rings_in_ram_pass() {
        assert_eq!(queue().check(0, &memory()), Ok(()));
    }

    #[test]
    fn a_ring_may_end_with_its_region_but_not_beyond() {
        let end = RAM + 0x1_0000;
        let fitting = QueueConfig { used: end - 8 - 8 * 256, ..queue() };
        assert_eq!(fitting.check(0, &memory()), Ok(()));
        let across = QueueConfig { used: end - 4 - 8 * 256, ..queue() };
        let fault = across.check(3, &memory()).unwrap_err();
        assert!(matches!(fault, GuestFault::OutsideMemory { queue: 3, ring: Ring::Used, .. }));
    }

    #[test]
    fn rings_outside_ram_or_around_the_top_are_refused() {
        for address in [0, 0x900_0000, RAM - 16, RAM + 0x2_0000, u64::MAX - 15, !0xfff] {
            let fault = QueueConfig { descriptors: address, ..queue() }.check(0, &memory()).unwrap_err();
            assert!(matches!(fault, GuestFault::OutsideMemory { .. }), "{address:#x}");
        }
    }

    #[test]
    fn unaligned_rings_are_refused() {
        for fault in [
            QueueConfig { descriptors: RAM + 8, ..queue() },
            QueueConfig { available: RAM + 1, ..queue() },
            QueueConfig { used: RAM + 2, ..queue() },
        ] {
            assert!(matches!(fault.check(0, &memory()), Err(GuestFault::Unaligned { .. })));
        }
    }

    #[test]
    fn a_size_that_is_none_is_not_taken() {
        let mut queue = queue();
        queue.set_size(64);
        for size in [0, 3, 65, 512, 0xffff, 0x8000] {
            queue.set_size(size);
            assert_eq!(queue.size, 64, "{size}");
        }
    }
}
