//! Registers of configuration space: PCI Local Bus 3.0 (§6.1 header, §6.2.5 BARs, §6.8.2 MSI-X) and
//! PCI Express Base 4.0 (§7.2.2 ECAM).

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
/// The first of six 32-bit base address registers.
pub const BAR0: usize = 0x10;
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
