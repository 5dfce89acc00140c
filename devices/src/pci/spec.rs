//! Registers of configuration space: PCI Local Bus 3.0 (§6.1 header, §6.2.5 BARs, §6.8.1 MSI, §6.8.2 MSI-X),
//! PCI-to-PCI Bridge Architecture 1.2 (§3.2 header of a bridge) and PCI Express Base 4.0 (§7.2.2 ECAM, §7.5.3 the
//! PCI Express capability, §6.7 hotplug).

/// Bytes of configuration space that a PCI-compatible function has.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of ECAM that one bus takes: 32 devices of 8 functions of 4 KiB.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;

/// Vendor id, 16 bits.
pub const VENDOR_ID: usize = 0x00;
/// Device id, 16 bits.
pub const DEVICE_ID: usize = 0x02;
/// Command register, 16 bits.
pub const COMMAND: usize = 0x04;
/// Status register, 16 bits.
pub const STATUS: usize = 0x06;
/// Revision id, 8 bits.
pub const REVISION_ID: usize = 0x08;
/// Programming interface, 8 bits; the subclass and the class follow.
pub const PROG_IF: usize = 0x09;
/// Subclass, 8 bits.
pub const SUBCLASS: usize = 0x0a;
/// Class, 8 bits.
pub const CLASS: usize = 0x0b;
/// Cache line size, 8 bits; software may write it, nothing comes of it.
pub const CACHE_LINE_SIZE: usize = 0x0c;
/// Header layout, 8 bits: 0 for an endpoint.
pub const HEADER_TYPE: usize = 0x0e;
/// Header layout: a bridge.
pub const HEADER_BRIDGE: u8 = 1;
/// Header layout: the device has more functions than this one.
pub const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// The first of six 32-bit base address registers.
pub const BAR0: usize = 0x10;
/// Bridge: the bus that it is on, 8 bits; secondary and subordinate bus follow.
pub const PRIMARY_BUS: usize = 0x18;
/// Bridge: the bus behind it, 8 bits.
pub const SECONDARY_BUS: usize = 0x19;
/// Bridge: the highest bus that is reached through it, 8 bits.
pub const SUBORDINATE_BUS: usize = 0x1a;
/// Bridge: base and limit of the memory that it forwards, 16 bits each: bits 31 to 20 of the address in bits 15 to 4.
pub const MEMORY_WINDOW: usize = 0x20;
/// Bridge: base and limit of the prefetchable memory that it forwards, as above.
pub const PREFETCHABLE_WINDOW: usize = 0x24;
/// Bridge: bits 63 to 32 of the prefetchable base; those of the limit follow.
pub const PREFETCHABLE_BASE_HIGH: usize = 0x28;
/// Bridge: the prefetchable window has addresses of 64 bits.
pub const PREFETCHABLE_64: u32 = 1;
/// Bridge control register, 16 bits.
pub const BRIDGE_CONTROL: usize = 0x3e;
/// Bridge control: what is behind the bridge is held in reset.
pub const BRIDGE_BUS_RESET: u16 = 1 << 6;
/// Subsystem vendor id, 16 bits.
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
/// Subsystem id, 16 bits.
pub const SUBSYSTEM_ID: usize = 0x2e;
/// Offset of the first capability, 8 bits.
pub const CAPABILITY_POINTER: usize = 0x34;
/// Interrupt line, 8 bits of scratch for software.
pub const INTERRUPT_LINE: usize = 0x3c;
/// The first byte that capabilities may use.
pub const FIRST_CAPABILITY: usize = 0x40;

/// Command: the function answers to its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the function may start transactions of its own.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: the function must not assert INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status: the capability list is there.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// BAR: the address is 64 bits wide and takes the next register too.
pub const BAR_MEMORY_64: u32 = 0b100;
/// BAR: the low bits that are not address.
pub const BAR_MEMORY_FLAGS: u32 = 0xf;

/// Capability id: vendor specific, which virtio uses.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability id: MSI.
pub const CAPABILITY_MSI: u8 = 0x05;
/// Capability id: PCI Express.
pub const CAPABILITY_EXPRESS: u8 = 0x10;
/// Capability id: MSI-X.
pub const CAPABILITY_MSIX: u8 = 0x11;

/// MSI-X message control: the function is masked as a whole.
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// MSI-X message control: MSI-X is in use.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X table entry, vector control word: the vector is masked.
pub const MSIX_VECTOR_MASK: u32 = 1;
/// Bytes of one MSI-X table entry.
pub const MSIX_ENTRY_SIZE: u64 = 16;
/// The most vectors that a function may have.
pub const MSIX_MAX_VECTORS: u16 = 2048;

/// MSI message control, 16 bits at offset 2 of the capability: in use.
pub const MSI_ENABLE: u16 = 1 << 0;
/// MSI message control: addresses have 64 bits.
pub const MSI_64: u16 = 1 << 7;

/// The PCI Express capability and its registers, by their offsets from its beginning.
pub mod express {
    /// Bytes of it, of version 2.
    pub const SIZE: usize = 0x3c;
    /// Capabilities register, 16 bits: version 2, root port, has a slot; events are signalled by message 0.
    pub const CAPABILITIES: usize = 0x02;
    /// The value of [`CAPABILITIES`] of a root port with a slot.
    pub const ROOT_PORT_WITH_SLOT: u16 = 2 | 4 << 4 | 1 << 8;
    /// Device capabilities, 32 bits.
    pub const DEVICE_CAPABILITIES: usize = 0x04;
    /// Device capabilities: errors are reported by the role of the device (required since 1.1).
    pub const ROLE_BASED_ERRORS: u32 = 1 << 15;
    /// Device control, 16 bits.
    pub const DEVICE_CONTROL: usize = 0x08;
    /// Link capabilities, 32 bits.
    pub const LINK_CAPABILITIES: usize = 0x0c;
    /// Link capabilities: 2.5 GT/s, one lane.
    pub const SLOWEST_LINK: u32 = 1 | 1 << 4;
    /// Link capabilities: the link says whether it is up.
    pub const LINK_REPORTS: u32 = 1 << 20;
    /// Link control, 16 bits.
    pub const LINK_CONTROL: usize = 0x10;
    /// Link status, 16 bits.
    pub const LINK_STATUS: usize = 0x12;
    /// Link status: the link is up.
    pub const LINK_ACTIVE: u16 = 1 << 13;
    /// Slot capabilities, 32 bits.
    pub const SLOT_CAPABILITIES: usize = 0x14;
    /// Slot capabilities: attention button.
    pub const HAS_BUTTON: u32 = 1 << 0;
    /// Slot capabilities: power indicator.
    pub const HAS_POWER_INDICATOR: u32 = 1 << 4;
    /// Slot capabilities: what is in the slot may go at any moment.
    pub const SURPRISE: u32 = 1 << 5;
    /// Slot capabilities: hotplug.
    pub const HOTPLUG: u32 = 1 << 6;
    /// Slot capabilities: commands are done at once, and no event tells so.
    pub const NO_COMMAND_COMPLETED: u32 = 1 << 18;
    /// Slot capabilities: the slot's number is in the bits from here.
    pub const SLOT_NUMBER_SHIFT: u32 = 19;
    /// Slot control, 16 bits.
    pub const SLOT_CONTROL: usize = 0x18;
    /// Slot control: event when the button is pressed.
    pub const BUTTON_ENABLE: u16 = 1 << 0;
    /// Slot control: event when something comes or goes.
    pub const PRESENCE_ENABLE: u16 = 1 << 3;
    /// Slot control: events interrupt.
    pub const INTERRUPT_ENABLE: u16 = 1 << 5;
    /// Slot control: the power indicator, 01 on, 10 blinking, 11 off.
    pub const POWER_INDICATOR: u16 = 3 << 8;
    /// The power indicator is on.
    pub const POWER_ON: u16 = 1 << 8;
    /// The power indicator blinks.
    pub const POWER_BLINKS: u16 = 2 << 8;
    /// The power indicator is off.
    pub const POWER_OFF: u16 = 3 << 8;
    /// Slot control: event when the link goes up or down.
    pub const LINK_ENABLE: u16 = 1 << 12;
    /// Slot control: all that software may set here: the events (with those that never come), the indicators.
    pub const SLOT_CONTROL_WRITABLE: u16 = 0x133f | 3 << 6;
    /// Slot status, 16 bits.
    pub const SLOT_STATUS: usize = 0x1a;
    /// Slot status: the button was pressed.
    pub const BUTTON_PRESSED: u16 = 1 << 0;
    /// Slot status: something has come or gone.
    pub const PRESENCE_CHANGED: u16 = 1 << 3;
    /// Slot status: something is in the slot.
    pub const PRESENT: u16 = 1 << 6;
    /// Slot status: the link went up or down.
    pub const LINK_CHANGED: u16 = 1 << 8;
    /// Root control, 16 bits.
    pub const ROOT_CONTROL: usize = 0x1c;
    /// Link capabilities 2, 32 bits.
    pub const LINK_CAPABILITIES_2: usize = 0x2c;
    /// Link capabilities 2: the speeds that there are: 2.5 GT/s.
    pub const SPEEDS: u32 = 1 << 1;
}
