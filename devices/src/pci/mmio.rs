//! A segment as the machine's bus sees it: ranges of addresses.

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use super::segment::PciSegment;

/// A segment's ECAM on the machine's bus.
pub struct Ecam(Arc<PciSegment>);

impl Ecam {
    pub(super) fn of(segment: Arc<PciSegment>) -> Self {
        Self(segment)
    }
}

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

impl MemoryWindow {
    pub(super) fn of(segment: Arc<PciSegment>) -> Self {
        Self(segment)
    }
}

impl DeviceMmio for MemoryWindow {
    fn mmio_read(&self, base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.memory_read(base.0.saturating_add(offset), data);
    }

    fn mmio_write(&self, base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.memory_write(base.0.saturating_add(offset), data);
    }
}
