//! What firmware does before a kernel starts: sizing BARs and giving them addresses.

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use super::address::{AddressRange, BarIndex};
use super::function::{DecodedBar, PciFunction};
use super::spec::{BAR_MEMORY_64, BAR_MEMORY_FLAGS};

/// A BAR that no window has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub bar: u8,
    pub size: u64,
}

/// The free addresses of a segment's windows.
pub(super) struct Firmware {
    mem32: AddressAllocator,
    mem64: AddressAllocator,
}

impl Firmware {
    /// Windows with nothing in them.
    pub fn new(mem32: AddressRange, mem64: AddressRange) -> Self {
        // Cannot fail: an AddressRange is not empty and does not wrap.
        let allocator = |range: AddressRange| {
            AddressAllocator::new(range.base(), range.size()).expect("an address range is allocatable")
        };
        Self { mem32: allocator(mem32), mem64: allocator(mem64) }
    }

    /// Gives every BAR of `function` an address, through its configuration space: right for any function.
    pub fn assign(&mut self, function: &mut dyn PciFunction) -> Result<Vec<DecodedBar>, NoRoom> {
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
                return Err(NoRoom { bar: bar.number(), size });
            };
            let width = if wide { 8 } else { 4 };
            for (part, register) in range.base().to_le_bytes()[..width].chunks(4).zip([0, 4]) {
                function.config_write(bar.register() as u16 + register, part);
            }
            assigned.push(DecodedBar { bar, range });
        }
        Ok(assigned)
    }

    /// Takes addresses back.
    pub fn release(&mut self, assigned: &[DecodedBar]) {
        for DecodedBar { range, .. } in assigned {
            let Ok(key) = RangeInclusive::new(range.base(), range.last()) else { continue };
            // It came from one of the two; the other refuses what is not its own.
            if self.mem64.free(&key).is_err() {
                let _ = self.mem32.free(&key);
            }
        }
    }

    /// Wide BARs go to the high window while it has room, as Linux puts them.
    fn allocate(&mut self, size: u64, wide: bool) -> Option<AddressRange> {
        let from =
            |allocator: &mut AddressAllocator| allocator.allocate(size, size, AllocPolicy::FirstMatch).ok();
        let high = if wide { from(&mut self.mem64) } else { None };
        let range = high.or_else(|| from(&mut self.mem32))?;
        AddressRange::new(range.start(), range.len())
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
