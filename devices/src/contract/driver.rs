//! A driver made by hand: a split virtqueue in a memfd, with no rule that it could not break.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap,
    MmapRegion,
};

use crate::virtio::GuestMemory;

/// Where guest RAM begins.
pub(crate) const RAM: u64 = 0x4000_0000;
/// How much there is, in two regions that adjoin.
pub(crate) const RAM_SIZE: u64 = 0x20_0000;
/// Where buffers may be.
pub(crate) const BUFFERS: u64 = RAM + 0x1_0000;
/// Descriptors in the ring.
pub(crate) const SIZE: u16 = 16;

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const RINGS: u64 = 0x3000;

/// Descriptor flag: there is a next one.
pub(crate) const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub(crate) const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// One descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// Guest RAM over one memfd, as the machine makes it.
pub(crate) fn guest_memory() -> GuestMemory {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(RAM_SIZE).unwrap();
    let file = Arc::new(file);
    let half = RAM_SIZE / 2;
    let region = |offset: u64| {
        let file = FileOffset::from_arc(Arc::clone(&file), offset);
        let mapping = MmapRegion::from_file(file, half as usize).unwrap();
        GuestRegionMmap::new(mapping, GuestAddress(RAM + offset)).unwrap()
    };
    GuestMemoryAtomic::new(GuestMemoryMmap::from_regions(vec![region(0), region(half)]).unwrap())
}

/// The driver's side of one queue.
pub(crate) struct Driver {
    memory: GuestMemory,
    rings: u64,
    available: u16,
}

impl Driver {
    /// Clears the rings.
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self::of_queue(memory, 0)
    }

    /// The same for another queue, whose rings are behind those of the queues before it.
    pub(crate) fn of_queue(memory: GuestMemory, queue: u16) -> Self {
        let rings = RAM + RINGS * u64::from(queue);
        memory.memory().write_slice(&[0; RINGS as usize], GuestAddress(rings)).unwrap();
        Self { memory, rings, available: 0 }
    }

    /// The three areas of queue 0.
    pub(crate) const fn areas() -> (u64, u64, u64) {
        (RAM + DESCRIPTORS, RAM + AVAILABLE, RAM + USED)
    }

    /// The three areas of its queue.
    pub(crate) fn own_areas(&self) -> (u64, u64, u64) {
        (self.rings + DESCRIPTORS, self.rings + AVAILABLE, self.rings + USED)
    }

    pub(crate) fn write<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.memory().write_obj(value, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.memory().read_obj(GuestAddress(address)).unwrap()
    }

    /// Writes descriptor `index` of the table at `table`.
    pub(crate) fn describe_at(&self, table: u64, index: u16, (address, length, flags, next): Descriptor) {
        let at = table + 16 * u64::from(index);
        self.write(address.to_le(), at);
        self.write(length.to_le(), at + 8);
        self.write(flags.to_le(), at + 12);
        self.write(next.to_le(), at + 14);
    }

    /// Writes descriptor `index` of the queue.
    pub(crate) fn describe(&self, index: u16, descriptor: Descriptor) {
        self.describe_at(self.rings + DESCRIPTORS, index, descriptor);
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        self.write(head.to_le(), self.rings + AVAILABLE + 4 + 2 * u64::from(self.available % SIZE));
        self.set_available(self.available.wrapping_add(1));
    }

    /// Says that there are so many, true or not.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        let memory = self.memory.memory();
        memory.store(index.to_le(), GuestAddress(self.rings + AVAILABLE + 2), Ordering::Release).unwrap();
    }

    /// How many chains were used.
    pub(crate) fn used(&self) -> u16 {
        u16::from_le(
            self.memory.memory().load(GuestAddress(self.rings + USED + 2), Ordering::Acquire).unwrap(),
        )
    }

    /// Head and length of the used chain of that number.
    pub(crate) fn used_element(&self, number: u16) -> (u32, u32) {
        let at = self.rings + USED + 4 + 8 * u64::from(number % SIZE);
        (u32::from_le(self.read(at)), u32::from_le(self.read(at + 4)))
    }
}
