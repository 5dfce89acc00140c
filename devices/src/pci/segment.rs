//! A PCI segment: its functions, its ECAM and its memory windows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, RwLock};

use thiserror::Error;

use super::address::{AddressRange, Bdf};
use super::bridge::HostBridge;
use super::firmware::{Firmware, NoRoom};
use super::function::{DecodedBar, PciFunction, SharedFunction};
use super::hotplug::Port;
use super::mmio::{Ecam, MemoryWindow};
use super::routes::{Route, Routes};
use super::spec::ECAM_BUS_SIZE;
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
    /// There is no such root port.
    #[error("there is no root port with bus {0:#04x} behind it")]
    NoSuchPort(u8),
    /// All root ports have something behind them.
    #[error("all {ports} hotplug slots of PCI segment {segment} are taken")]
    NoFreePort {
        /// The segment's number.
        segment: u16,
        /// How many it has.
        ports: usize,
    },
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

/// What is kept in one place.
pub(super) struct Occupant {
    pub function: SharedFunction,
    pub assigned: Vec<DecodedBar>,
}

/// One PCI segment with a root bus and root ports, shared by the vCPU threads.
///
/// A store to a BAR register or to the command register changes the routes before the store returns, and ioeventfds
/// move with it ([`PciFunction::bars_decoded`]).
pub struct PciSegment {
    layout: SegmentLayout,
    /// By their homes.
    pub(super) functions: RwLock<BTreeMap<Bdf, Occupant>>,
    /// By their own places on the root bus.
    pub(super) ports: RwLock<BTreeMap<Bdf, Port>>,
    routes: RwLock<Routes>,
    firmware: Mutex<Firmware>,
}

impl PciSegment {
    /// A segment that holds its host bridge and nothing else.
    pub fn new(layout: SegmentLayout) -> Arc<Self> {
        let bridge: SharedFunction = Arc::new(Mutex::new(HostBridge::new()));
        let host_bridge = Bdf::from_ecam_offset(0);
        let functions = BTreeMap::from([(host_bridge, Occupant { function: bridge, assigned: Vec::new() })]);
        Arc::new(Self {
            layout,
            functions: RwLock::new(functions),
            ports: RwLock::new(BTreeMap::new()),
            routes: RwLock::new(Routes::new(vec![layout.mem32, layout.mem64])),
            firmware: Mutex::new(Firmware::new(layout.mem32, layout.mem64)),
        })
    }

    /// Where it lies.
    pub fn layout(&self) -> SegmentLayout {
        self.layout
    }

    /// What to register on the machine's bus over [`SegmentLayout::ecam`].
    pub fn ecam(self: &Arc<Self>) -> Arc<Ecam> {
        Arc::new(Ecam::of(Arc::clone(self)))
    }

    /// What to register on the machine's bus over [`SegmentLayout::mem32`], and again over `mem64`.
    pub fn window(self: &Arc<Self>) -> Arc<MemoryWindow> {
        Arc::new(MemoryWindow::of(Arc::clone(self)))
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
        let assigned = lock(&self.firmware).assign(&mut *lock(&function));
        let assigned = assigned.map_err(|NoRoom { bar, size }| InsertError::NoRoom { bdf, bar, size })?;
        let released = assigned.clone();
        self.place(bdf, Occupant { function, assigned })
            .inspect_err(|_| lock(&self.firmware).release(&released))?;
        Ok(bdf)
    }

    /// Keeps `occupant` at `bdf`, if that is free.
    pub(super) fn place(&self, bdf: Bdf, occupant: Occupant) -> Result<(), InsertError> {
        match write(&self.functions).entry(bdf) {
            Entry::Occupied(_) => Err(InsertError::Taken(bdf)),
            Entry::Vacant(vacant) => {
                vacant.insert(occupant);
                Ok(())
            }
        }
    }

    /// Takes the function at `bdf` out; its BARs are no longer decoded when this returns.
    pub fn remove(&self, bdf: Bdf) -> Option<SharedFunction> {
        let Occupant { function, assigned } = write(&self.functions).remove(&bdf)?;
        {
            let mut function = lock(&function);
            write(&self.routes).replace(bdf, None, &[]);
            function.bars_decoded(&[]);
        }
        lock(&self.firmware).release(&assigned);
        Some(function)
    }

    /// The functions and the addresses that their BARs were given at first (not where the guest has moved them).
    pub fn functions(&self) -> Vec<(Bdf, Vec<DecodedBar>)> {
        read(&self.functions).iter().map(|(bdf, occupant)| (*bdf, occupant.assigned.clone())).collect()
    }

    /// Decodes the BARs of the function at `bdf` as it now has them: after its state was restored.
    pub fn reroute(&self, bdf: Bdf) {
        let shared = read(&self.functions).get(&bdf).map(|occupant| Arc::clone(&occupant.function));
        if let Some(shared) = shared {
            let mut function = lock(&shared);
            self.route(bdf, &shared, &mut *function);
        }
    }

    /// Resets every function, as a reset of the machine does.
    pub fn reset(&self) {
        let functions: Vec<_> =
            read(&self.functions).iter().map(|(bdf, o)| (*bdf, Arc::clone(&o.function))).collect();
        for (bdf, shared) in functions {
            let mut function = lock(&shared);
            function.reset();
            if let Some(now) = function.forwarding() {
                let _ = self.forward(bdf, now);
            }
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
        if let Some(now) = function.forwarding() {
            let change = self.forward(bdf, now);
            // A function behind the port has a lock of its own: never both.
            drop(function);
            if let Some((behind, reset)) = change {
                self.follow(behind, reset);
            }
        } else if register(offset) < super::spec::SUBSYSTEM_VENDOR_ID as u16 {
            // Only the command register and the BARs move anything.
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
        let home = self.home_of(Bdf::from_ecam_offset(offset))?;
        let functions = read(&self.functions);
        Some((home, Arc::clone(&functions.get(&home)?.function)))
    }

    fn memory_target(&self, address: u64, len: usize) -> Option<Route> {
        let access = AddressRange::new(address, u64::try_from(len).ok()?)?;
        read(&self.routes).find(access).cloned()
    }

    /// Brings the routes up to date with `function`, whose lock the caller holds.
    pub(super) fn route(&self, bdf: Bdf, shared: &SharedFunction, function: &mut dyn PciFunction) {
        // A function that was removed while an access to it was on its way must not come back.
        let present = |occupant: &Occupant| Arc::ptr_eq(&occupant.function, shared);
        if !read(&self.functions).get(&bdf).is_some_and(present) {
            return;
        }
        let mut bars = function.bars();
        if let Some(port) = self.in_front_of(bdf) {
            bars.retain(|bar| !port.in_reset && port.windows.iter().any(|window| window.contains(bar.range)));
        }
        let decoded = write(&self.routes).replace(bdf, Some(shared), &bars);
        function.bars_decoded(&decoded);
    }
}

fn register(offset: u64) -> u16 {
    // Cannot truncate: 12 bits.
    (offset & 0xfff) as u16
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
