//! Configuration space of an endpoint (header type 0) or a bridge (type 1): bytes, and which of their bits the guest
//! may change or clear.

use super::address::{AddressRange, BarIndex};
use super::function::DecodedBar;
use super::spec::{
    BAR_MEMORY_64, BAR_MEMORY_FLAGS, BRIDGE_BUS_RESET, BRIDGE_CONTROL, CACHE_LINE_SIZE, CAPABILITY_POINTER,
    CLASS, COMMAND, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY, CONFIG_SIZE, DEVICE_ID,
    FIRST_CAPABILITY, HEADER_BRIDGE, HEADER_TYPE, INTERRUPT_LINE, MEMORY_WINDOW, PREFETCHABLE_64,
    PREFETCHABLE_BASE_HIGH, PREFETCHABLE_WINDOW, PRIMARY_BUS, PROG_IF, REVISION_ID, STATUS,
    STATUS_CAPABILITIES, SUBCLASS, SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID, VENDOR_ID,
};
use super::state::RestoreError;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class, subclass and programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

#[derive(Clone, Copy)]
struct Bar {
    index: BarIndex,
    size: u64,
}

/// The 256 bytes of PCI-compatible configuration space of a function.
///
/// A BAR is sized as in hardware: the bits below its size cannot be changed, so that a guest that writes ones
/// reads the size back. There is no code for that; it follows from the mask.
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    /// Bits that a guest clears by writing ones to them.
    cleared_by_ones: [u8; CONFIG_SIZE],
    bars: Vec<Bar>,
    next_capability: usize,
    last_link: usize,
}

impl ConfigSpace {
    /// An endpoint's header, with no BAR and no capability.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self::header(identity);
        space.put(SUBSYSTEM_VENDOR_ID, &identity.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        space
    }

    /// The header of a PCI-to-PCI bridge, which forwards memory (32 bits, and prefetchable of 64) but no I/O ports;
    /// the subsystem's ids have no place in it.
    pub fn bridge(identity: Identity) -> Self {
        let mut space = Self::header(identity);
        space.put(HEADER_TYPE, &[HEADER_BRIDGE]);
        // Primary, secondary and subordinate bus.
        space.allow(PRIMARY_BUS, &[0xff; 3]);
        space.allow(MEMORY_WINDOW, &0xfff0_fff0_u32.to_le_bytes());
        let wide = PREFETCHABLE_64 | PREFETCHABLE_64 << 16;
        space.put(PREFETCHABLE_WINDOW, &wide.to_le_bytes());
        space.allow(PREFETCHABLE_WINDOW, &0xfff0_fff0_u32.to_le_bytes());
        space.allow(PREFETCHABLE_BASE_HIGH, &[0xff; 8]);
        space.allow(BRIDGE_CONTROL, &BRIDGE_BUS_RESET.to_le_bytes());
        space
    }

    fn header(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            cleared_by_ones: [0; CONFIG_SIZE],
            bars: Vec::new(),
            next_capability: FIRST_CAPABILITY,
            last_link: CAPABILITY_POINTER,
        };
        space.put(VENDOR_ID, &identity.vendor.to_le_bytes());
        space.put(DEVICE_ID, &identity.device.to_le_bytes());
        space.put(REVISION_ID, &[identity.revision]);
        let [class, subclass, prog_if] = identity.class;
        space.put(CLASS, &[class]);
        space.put(SUBCLASS, &[subclass]);
        space.put(PROG_IF, &[prog_if]);
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(CACHE_LINE_SIZE, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a 64-bit, non-prefetchable memory BAR of `size` bytes, which takes `index` and the register after it.
    ///
    /// # Panics
    /// If `size` is no power of two, or below 16: the caller's constant is wrong.
    pub fn add_memory_bar(&mut self, index: BarIndex, size: u64) {
        assert!(size.is_power_of_two() && size >= 16, "a BAR's size is a power of two of at least 16");
        let register = index.register();
        self.put(register, &BAR_MEMORY_64.to_le_bytes());
        self.allow(register, &(!(size - 1)).to_le_bytes());
        self.bars.push(Bar { index, size });
    }

    /// Appends a capability and returns its offset.
    ///
    /// `body` is what follows the id and the link; `writable` marks the bits of `body` that the guest may change,
    /// and counts as zeros where it is shorter.
    ///
    /// # Panics
    /// If configuration space is full: a function's capabilities are fixed when it is written.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let offset = self.next_capability;
        assert!(offset + 2 + body.len() <= CONFIG_SIZE, "the capabilities fit into configuration space");
        // Cannot truncate: the offset is below CONFIG_SIZE.
        self.put(self.last_link, &[offset as u8]);
        self.put(offset, &[id, 0]);
        self.put(offset + 2, body);
        self.allow(offset + 2, writable);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_link = offset + 1;
        self.next_capability = (offset + 2 + body.len()).next_multiple_of(4);
        offset
    }

    /// Reads; bytes beyond the end read as zero (there are no extended capabilities).
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that the guest may change, and clears those that it may clear.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (at, new) in (usize::from(offset)..CONFIG_SIZE).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask | new & mask) & !(new & self.cleared_by_ones[at]);
        }
    }

    /// Marks bits as such that a guest clears by writing ones to them.
    ///
    /// # Panics
    /// If they lie beyond configuration space.
    pub fn clear_by_ones(&mut self, offset: usize, mask: &[u8]) {
        self.cleared_by_ones[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Sets the bits of `set` in the 16 bits at `offset`, and clears those of `clear`, whatever the guest may do to them.
    ///
    /// # Panics
    /// If they lie beyond configuration space.
    pub fn change_u16(&mut self, offset: usize, set: u16, clear: u16) {
        self.put(offset, &(self.read_u16(offset) & !clear | set).to_le_bytes());
    }

    /// Sets bytes whatever the guest may do to them.
    ///
    /// # Panics
    /// If they lie beyond configuration space.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The byte at `offset`, which must be within configuration space.
    pub fn read_u8(&self, offset: usize) -> u8 {
        self.bytes[offset]
    }

    /// The little-endian 16 bits at `offset`, which must be within configuration space.
    pub fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// The little-endian 32 bits at `offset`, which must be within configuration space.
    pub fn read_u32(&self, offset: usize) -> u32 {
        u32::from(self.read_u16(offset)) | u32::from(self.read_u16(offset + 2)) << 16
    }

    /// The memory BARs, if memory decoding is on; what would wrap is left out.
    pub fn decoded_bars(&self) -> Vec<DecodedBar> {
        if self.read_u16(COMMAND) & COMMAND_MEMORY == 0 {
            return Vec::new();
        }
        let decode = |bar: &Bar| {
            let low = self.read_u32(bar.index.register()) & !BAR_MEMORY_FLAGS;
            let high = self.read_u32(bar.index.register() + 4);
            let range = AddressRange::new(u64::from(high) << 32 | u64::from(low), bar.size)?;
            Some(DecodedBar { bar: bar.index, range })
        };
        self.bars.iter().filter_map(decode).collect()
    }

    /// All of it, as it is saved.
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Puts back what the guest had written. The rest must be as it is here, but for `free`: bytes that show what the device
    /// itself did last.
    ///
    /// # Errors
    /// Where the saved function is another one.
    pub fn restore(&mut self, saved: &[u8], free: &[std::ops::Range<usize>]) -> Result<(), RestoreError> {
        let saved: &[u8; CONFIG_SIZE] = saved.try_into().map_err(|_| RestoreError::Size(saved.len()))?;
        for (at, (mine, theirs)) in self.bytes.iter().zip(saved).enumerate() {
            let free_here = free.iter().any(|range| range.contains(&at));
            if (mine ^ theirs) & !self.writable[at] != 0 && !free_here {
                return Err(RestoreError::Identity(at));
            }
        }
        self.bytes = *saved;
        Ok(())
    }

    /// Clears what a reset clears: the command register. BAR addresses stay, as firmware would put them back.
    pub fn reset(&mut self) {
        self.put(COMMAND, &[0, 0]);
        self.put(INTERRUPT_LINE, &[0]);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1044,
            revision: 1,
            class: [0xff, 0, 0],
            subsystem_vendor: 0x1af4,
            subsystem: 4,
        });
        space.add_memory_bar(BarIndex::ZERO, 0x8000);
        space
    }

    fn read_u32(space: &ConfigSpace, offset: u16) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_header_is_laid_out_as_specified() {
        let space = space();
        assert_eq!(read_u32(&space, 0), 0x1044_1af4);
        assert_eq!(read_u32(&space, 8), 0xff00_0001);
        assert_eq!(read_u32(&space, 0x2c), 0x0004_1af4);
    }

    #[test]
    fn a_bar_written_with_ones_reads_back_its_size() {
        let mut space = space();
        space.write(0x10, &u32::MAX.to_le_bytes());
        space.write(0x14, &u32::MAX.to_le_bytes());
        assert_eq!(read_u32(&space, 0x10), 0xffff_8000 | BAR_MEMORY_64);
        assert_eq!(read_u32(&space, 0x14), u32::MAX);
        assert_eq!(read_u32(&space, 0x18), 0, "there is no BAR 2");
    }

    #[test]
    fn a_bar_decodes_only_with_memory_enabled() {
        let mut space = space();
        space.write(0x10, &0x8000_0000u32.to_le_bytes());
        space.write(0x14, &[0x40]);
        assert!(space.decoded_bars().is_empty());
        space.write(4, &COMMAND_MEMORY.to_le_bytes());
        let range = AddressRange::new(0x40_8000_0000, 0x8000).unwrap();
        assert_eq!(space.decoded_bars(), [DecodedBar { bar: BarIndex::ZERO, range }]);
        space.reset();
        assert!(space.decoded_bars().is_empty());
    }

    #[test]
    fn a_bar_at_the_very_top_does_not_wrap() {
        let mut space = space();
        space.write(4, &COMMAND_MEMORY.to_le_bytes());
        space.write(0x10, &[0xff; 8]);
        assert_eq!(space.decoded_bars()[0].range.last(), u64::MAX);
    }

    #[test]
    fn capabilities_are_linked_in_order() {
        let mut space = space();
        let first = space.add_capability(0x09, &[3, 1], &[]);
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        let mut byte = [0];
        space.read(0x34, &mut byte);
        assert_eq!(usize::from(byte[0]), first);
        assert_eq!(read_u32(&space, first as u16).to_le_bytes(), [0x09, second as u8, 3, 1]);
        assert_eq!(read_u32(&space, second as u16).to_le_bytes(), [0x11, 0, 0, 0]);
        space.write(second as u16, &[0xff; 4]);
        assert_eq!(read_u32(&space, second as u16).to_le_bytes(), [0x11, 0, 0, 0xc0]);
        assert_ne!(space.read_u16(STATUS) & STATUS_CAPABILITIES, 0);
    }

    #[test]
    fn what_the_guest_wrote_is_restored_and_another_function_is_refused() {
        let mut saved = space();
        saved.write(4, &[0x06, 0]);
        saved.write(0x10, &0x8000_0000u32.to_le_bytes());
        let mut restored = space();
        restored.restore(&saved.save(), &[]).unwrap();
        assert_eq!(restored.save(), saved.save());
        assert_eq!(restored.decoded_bars(), saved.decoded_bars());
        let mut other = saved.save();
        other[2] ^= 1;
        assert_eq!(space().restore(&other, &[]), Err(RestoreError::Identity(2)));
        assert_eq!(space().restore(&other[1..], &[]), Err(RestoreError::Size(255)));
    }

    #[test]
    fn identity_and_what_lies_beyond_the_end_are_read_only() {
        let mut space = space();
        space.write(0, &[0; 4]);
        space.write(0xfe, &[0xff; 4]);
        assert_eq!(read_u32(&space, 0), 0x1044_1af4);
        assert_eq!(read_u32(&space, 0xfe), 0);
    }
}
