//! The host bridge, function 00:00.0 of every segment: an identity and nothing else.

use super::address::BarIndex;
use super::config::{ConfigSpace, Identity};
use super::function::{DecodedBar, PciFunction};
use super::state::RestoreError;

/// The host bridge function. Linux binds no driver to it; the numbers are those of QEMU's generic PCIe host bridge.
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// The bridge of one segment.
    pub fn new() -> Self {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: [0x06, 0, 0],
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        Self { config: ConfigSpace::new(identity) }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn save_bridge(&self) -> Option<Vec<u8>> {
        Some(self.config.save())
    }

    fn restore_bridge(&mut self, saved: &[u8]) -> Result<(), RestoreError> {
        self.config.restore(saved, &[])
    }

    fn bars(&self) -> Vec<DecodedBar> {
        Vec::new()
    }

    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.config.reset();
    }
}
