//! A PCI segment: its functions, its ECAM and its memory windows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use thiserror::Error;
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use super::address::{AddressRange, BarIndex, Bdf};
use super::bridge::HostBridge;
use super::function::{DecodedBar, PciFunction, SharedFunction};
use super::routes::{Route, Routes};
use super::spec::{BAR_MEMORY_64, BAR_MEMORY_FLAGS, ECAM_BUS_SIZE};
use crate::sync::{lock, read, write};

/// Where a segment lies in guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    /// The segment's number (Linux: its PCI domain).
    pub number: u16,
    /// Its ECAM; 1 MiB for each bus that it has.
    pub ecam: AddressRange,
    /// The window below 4 GiB.
    pub mem32: AddressRange,
    /// The window above RAM.
    pub mem64: AddressRange,
}

/// Why a function could not be inserted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InsertError {
    /// There is no such device number.
    #[error("PCI device number {0} is above 31")]
    NoSuchSlot(u8),
    /// The place is taken.
    #[error("PCI function {0} is taken")]
    Taken(Bdf),
    /// All 32 device numbers are taken.
    #[error("no PCI device number is free in segment {0}")]
    Full(u16),
    /// No window has room.
    #[error("BAR {bar} of PCI function {bdf} needs {size:#x} bytes, for which no memory window has room")]
    NoRoom {
        /// The function.
        bdf: Bdf,
        /// The BAR's number.
        bar: u8,
        /// Its size in bytes.
        size: u64,
    },
}

struct Occupant {
    function: SharedFunction,
    assigned: Vec<DecodedBar>,
}

struct Allocators {
    mem32: AddressAllocator,
    mem64: AddressAllocator,
}

/// One PCI segment with a root bus, shared by the vCPU threads.
///
/// A store to a BAR register or to the command register changes the routes before the store returns, and ioeventfds
/// move with it ([`PciFunction::bars_decoded`]).
pub struct PciSegment {
    layout: SegmentLayout,
    functions: RwLock<BTreeMap<Bdf, Occupant>>,
    routes: RwLock<Routes>,
    allocators: Mutex<Allocators>,
}

impl PciSegment {
    /// A segment that holds its host bridge and nothing else.
    pub fn new(layout: SegmentLayout) -> Arc<Self> {
        // An allocator over an AddressRange cannot fail: the range is not empty and does not wrap.
        let allocator = |range: AddressRange| {
            AddressAllocator::new(range.base(), range.size()).expect("an address range is allocatable")
        };
        let bridge: SharedFunction = Arc::new(Mutex::new(HostBridge::new()));
        let host_bridge = Bdf::from_ecam_offset(0);
        let functions = BTreeMap::from([(host_bridge, Occupant { function: bridge, assigned: Vec::new() })]);
        Arc::new(Self {
            layout,
            functions: RwLock::new(functions),
            routes: RwLock::new(Routes::new(vec![layout.mem32, layout.mem64])),
            allocators: Mutex::new(Allocators {
                mem32: allocator(layout.mem32),
                mem64: allocator(layout.mem64),
            }),
        })
    }

    /// Where it lies.
    pub fn layout(&self) -> SegmentLayout {
        self.layout
    }

    /// What to register on the machine's bus over [`SegmentLayout::ecam`].
    pub fn ecam(self: &Arc<Self>) -> Arc<Ecam> {
        Arc::new(Ecam(Arc::clone(self)))
    }

    /// What to register on the machine's bus over [`SegmentLayout::mem32`], and again over `mem64`.
    pub fn window(self: &Arc<Self>) -> Arc<MemoryWindow> {
        Arc::new(MemoryWindow(Arc::clone(self)))
    }

    /// The lowest free device number on the root bus.
    pub fn free_slot(&self) -> Result<u8, InsertError> {
        let functions = read(&self.functions);
        let free = |&device: &u8| Bdf::on_root_bus(device).is_some_and(|bdf| !functions.contains_key(&bdf));
        (0..32).find(free).ok_or(InsertError::Full(self.layout.number))
    }

    /// Puts `function` on the root bus as function 0 of `device`, and gives its BARs their first addresses.
    ///
    /// Linux moves them as it likes; decoding stays off until it does.
    pub fn insert(&self, device: u8, function: SharedFunction) -> Result<Bdf, InsertError> {
        let bdf = Bdf::on_root_bus(device).ok_or(InsertError::NoSuchSlot(device))?;
        // The function's lock comes before that of the functions, never within it.
        let assigned = self.assign_bars(bdf, &mut *lock(&function))?;
        let mut functions = write(&self.functions);
        if functions.contains_key(&bdf) {
            self.release(&assigned);
            return Err(InsertError::Taken(bdf));
        }
        functions.insert(bdf, Occupant { function, assigned });
        Ok(bdf)
    }

    /// Takes the function at `bdf` out; its BARs are no longer decoded when this returns.
    pub fn remove(&self, bdf: Bdf) -> Option<SharedFunction> {
        let Occupant { function, assigned } = write(&self.functions).remove(&bdf)?;
        {
            let mut function = lock(&function);
            write(&self.routes).replace(bdf, None, &[]);
            function.bars_decoded(&[]);
        }
        self.release(&assigned);
        Some(function)
    }

    /// The functions and the addresses that their BARs were given at first (not where the guest has moved them).
    pub fn functions(&self) -> Vec<(Bdf, Vec<DecodedBar>)> {
        read(&self.functions).iter().map(|(bdf, occupant)| (*bdf, occupant.assigned.clone())).collect()
    }

    /// Resets every function, as a reset of the machine does.
    pub fn reset(&self) {
        let functions: Vec<_> =
            read(&self.functions).iter().map(|(bdf, o)| (*bdf, Arc::clone(&o.function))).collect();
        for (bdf, shared) in functions {
            let mut function = lock(&shared);
            function.reset();
            self.route(bdf, &shared, &mut *function);
        }
    }

    /// Reads configuration space at `offset` into the ECAM.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        match self.config_target(offset, data.len()) {
            Some((_, function)) => lock(&function).config_read(register(offset), data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space at `offset` into the ECAM.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        let Some((bdf, shared)) = self.config_target(offset, data.len()) else { return };
        let mut function = lock(&shared);
        function.config_write(register(offset), data);
        // Only the command register and the BARs move anything.
        if register(offset) < super::spec::SUBSYSTEM_VENDOR_ID as u16 {
            self.route(bdf, &shared, &mut *function);
        }
    }

    /// Reads from the BAR at guest-physical `address`, or all ones where there is none.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        match self.memory_target(address, data.len()) {
            Some(Route { range, bar, function, .. }) => {
                lock(&function).bar_read(bar, address - range.base(), data);
            }
            None => data.fill(0xff),
        }
    }

    /// Writes to the BAR at guest-physical `address`, if there is one.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some(Route { range, bar, function, .. }) = self.memory_target(address, data.len()) {
            lock(&function).bar_write(bar, address - range.base(), data);
        }
    }

    /// PCI has configuration accesses of 1, 2 and 4 bytes, aligned; to all others no function answers.
    fn config_target(&self, offset: u64, len: usize) -> Option<(Bdf, SharedFunction)> {
        let len = u64::try_from(len).ok().filter(|len| matches!(len, 1 | 2 | 4))?;
        let end = offset.checked_add(len)?;
        let buses = self.layout.ecam.size() / ECAM_BUS_SIZE;
        if !offset.is_multiple_of(len) || end > self.layout.ecam.size() || buses > 256 {
            return None;
        }
        let bdf = Bdf::from_ecam_offset(offset);
        let functions = read(&self.functions);
        Some((bdf, Arc::clone(&functions.get(&bdf)?.function)))
    }

    fn memory_target(&self, address: u64, len: usize) -> Option<Route> {
        let access = AddressRange::new(address, u64::try_from(len).ok()?)?;
        read(&self.routes).find(access).cloned()
    }

    /// Brings the routes up to date with `function`, whose lock the caller holds.
    fn route(&self, bdf: Bdf, shared: &SharedFunction, function: &mut dyn PciFunction) {
        // A function that was removed while an access to it was on its way must not come back.
        let present = |occupant: &Occupant| Arc::ptr_eq(&occupant.function, shared);
        if !read(&self.functions).get(&bdf).is_some_and(present) {
            return;
        }
        let decoded = write(&self.routes).replace(bdf, Some(shared), &function.bars());
        function.bars_decoded(&decoded);
    }

    /// Sizes and places BARs as firmware does, through configuration space: right for any function.
    fn assign_bars(&self, bdf: Bdf, function: &mut dyn PciFunction) -> Result<Vec<DecodedBar>, InsertError> {
        let mut assigned = Vec::new();
        let mut index = 0;
        while let Some(bar) = BarIndex::new(index) {
            let low = probe(function, bar);
            let wide = low & BAR_MEMORY_64 != 0;
            let high =
                BarIndex::new(index + 1).filter(|_| wide).map_or(u32::MAX, |next| probe(function, next));
            index += 1 + u8::from(wide);
            if low & !BAR_MEMORY_FLAGS == 0 && (!wide || high == 0) {
                continue;
            }
            let size = !(u64::from(high) << 32 | u64::from(low & !BAR_MEMORY_FLAGS)) + 1;
            let Some(range) = self.allocate(size, wide) else {
                self.release(&assigned);
                return Err(InsertError::NoRoom { bdf, bar: bar.number(), size });
            };
            let width = if wide { 8 } else { 4 };
            for (part, register) in range.base().to_le_bytes()[..width].chunks(4).zip([0, 4]) {
                function.config_write(bar.register() as u16 + register, part);
            }
            assigned.push(DecodedBar { bar, range });
        }
        Ok(assigned)
    }

    fn allocate(&self, size: u64, wide: bool) -> Option<AddressRange> {
        let mut allocators = lock(&self.allocators);
        let from =
            |allocator: &mut AddressAllocator| allocator.allocate(size, size, AllocPolicy::FirstMatch).ok();
        let high = if wide { from(&mut allocators.mem64) } else { None };
        let range = high.or_else(|| from(&mut allocators.mem32))?;
        AddressRange::new(range.start(), range.len())
    }

    fn release(&self, assigned: &[DecodedBar]) {
        let mut allocators = lock(&self.allocators);
        for DecodedBar { range, .. } in assigned {
            let Ok(key) = RangeInclusive::new(range.base(), range.last()) else { continue };
            // It came from one of the two; the other refuses what is not its own.
            if allocators.mem64.free(&key).is_err() {
                let _ = allocators.mem32.free(&key);
            }
        }
    }
}

/// Writes ones to a BAR's register and returns what sticks.
fn probe(function: &mut dyn PciFunction, bar: BarIndex) -> u32 {
    let register = bar.register() as u16;
    let mut value = [0; 4];
    function.config_write(register, &[0xff; 4]);
    function.config_read(register, &mut value);
    u32::from_le_bytes(value)
}

fn register(offset: u64) -> u16 {
    // Cannot truncate: 12 bits.
    (offset & 0xfff) as u16
}

/// A segment's ECAM on the machine's bus.
pub struct Ecam(Arc<PciSegment>);

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.config_read(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.config_write(offset, data);
    }
}

/// A segment's memory window on the machine's bus; the same one serves every window of the segment.
pub struct MemoryWindow(Arc<PciSegment>);

impl DeviceMmio for MemoryWindow {
    fn mmio_read(&self, base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.memory_read(base.0.saturating_add(offset), data);
    }

    fn mmio_write(&self, base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.memory_write(base.0.saturating_add(offset), data);
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
