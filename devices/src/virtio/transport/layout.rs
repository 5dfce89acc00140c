//! Where the structures of a virtio device lie in its BAR, and the capabilities that say so (virtio 1.2, §4.1.4).
//!
//! ```text
//!   BAR 0   0x0000 common  0x1000 ISR  0x2000 device  0x3000 notify  0x4000 MSI-X table  0x5000 pending bits
//! ```
//! Each has a page of its own, so that the doorbells share one with nothing else.

use crate::pci::spec::CAPABILITY_VENDOR;
use crate::pci::{BarIndex, ConfigSpace};
use crate::virtio::spec::{CAP_COMMON, CAP_DEVICE, CAP_ISR, CAP_NOTIFY, CAP_PCI, common};

/// The BAR that has it all.
pub(super) const BAR: BarIndex = BarIndex::ZERO;
/// Its size in bytes.
pub(super) const BAR_SIZE: u64 = 0x8000;
/// The most bytes that one structure may have, and so the most queues: 1,024.
const PAGE: u64 = 0x1000;
/// The common configuration.
pub(super) const COMMON: u64 = 0;
/// The interrupt status byte.
pub(super) const ISR: u64 = PAGE;
/// The device-specific configuration.
pub(super) const DEVICE: u64 = 2 * PAGE;
/// The doorbells.
pub(super) const NOTIFY: u64 = 3 * PAGE;
/// The MSI-X table.
pub(super) const MSIX_TABLE: u64 = 4 * PAGE;
/// The MSI-X pending bits.
pub(super) const MSIX_PBA: u64 = 5 * PAGE;
/// Bytes between the doorbells of neighbouring queues.
pub(super) const NOTIFY_MULTIPLIER: u64 = 4;
/// The most queues that there is room for.
pub(super) const MAX_QUEUES: usize = (PAGE / NOTIFY_MULTIPLIER) as usize;
/// The most MSI-X vectors that there is room for.
pub(super) const MAX_VECTORS: u16 = 256;

/// A structure of the BAR, and the offset into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Common(u64),
    Isr(u64),
    Device(u64),
    Notify(u64),
    MsixTable(u64),
    MsixPba(u64),
    Nothing,
}

impl Place {
    /// Where `offset` into the BAR is.
    pub fn of(offset: u64) -> Self {
        let within = offset % PAGE;
        match offset - within {
            COMMON => Self::Common(within),
            ISR => Self::Isr(within),
            DEVICE => Self::Device(within),
            NOTIFY => Self::Notify(within),
            MSIX_TABLE => Self::MsixTable(within),
            MSIX_PBA => Self::MsixPba(within),
            _ => Self::Nothing,
        }
    }
}

/// The window of VIRTIO_PCI_CAP_PCI_CFG (§4.1.4.9): a BAR access through configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Offset of the capability.
    capability: usize,
}

impl Window {
    /// Offset of its four bytes of data.
    pub fn data(self) -> usize {
        self.capability + 16
    }

    /// Whether an access to configuration space touches the data.
    pub fn touched_by(self, offset: u16, len: usize) -> bool {
        let offset = usize::from(offset);
        offset < self.data() + 4 && self.data() < offset + len
    }

    /// Offset and width of the access that the guest has set up, if that lies in the BAR.
    pub fn target(self, config: &ConfigSpace) -> Option<(u64, usize)> {
        let bar = config.read_u16(self.capability + 4) & 0xff;
        let offset = u64::from(config.read_u32(self.capability + 8));
        let length = config.read_u32(self.capability + 12);
        let sound = bar == u16::from(BAR.number())
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(u64::from(length))
            && offset + u64::from(length) <= BAR_SIZE;
        // Cannot truncate: at most 4.
        sound.then_some((offset, length as usize))
    }
}

/// Adds the five virtio capabilities.
pub(super) fn add_capabilities(config: &mut ConfigSpace, queues: usize, device_config: usize) -> Window {
    let notify_size = queues.max(1) as u64 * NOTIFY_MULTIPLIER;
    add(config, CAP_COMMON, COMMON, common::SIZE, &[]);
    add(config, CAP_ISR, ISR, 1, &[]);
    // Linux refuses a capability of no length; four bytes of nothing do no harm.
    add(config, CAP_DEVICE, DEVICE, device_config.next_multiple_of(4).max(4) as u64, &[]);
    add(config, CAP_NOTIFY, NOTIFY, notify_size, &(NOTIFY_MULTIPLIER as u32).to_le_bytes());
    let body = capability(CAP_PCI, 0, 0, &[0; 4]);
    let mut writable = vec![0; body.len()];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    Window { capability: config.add_capability(CAPABILITY_VENDOR, &body, &writable) }
}

fn add(config: &mut ConfigSpace, kind: u8, offset: u64, length: u64, extra: &[u8]) {
    config.add_capability(CAPABILITY_VENDOR, &capability(kind, offset, length, extra), &[]);
}

/// `struct virtio_pci_cap` without its first two bytes.
fn capability(kind: u8, offset: u64, length: u64, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + extra.len() as u8, kind, BAR.number(), 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(extra);
    body
}
