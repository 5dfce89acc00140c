//! Wired interrupts of the platform devices.

use std::io;
use std::sync::Arc;

use granule_arch::irq::Spi;
use granule_arch::kvm::Vm;
use granule_devices::platform::IrqLine;

/// A shared peripheral interrupt as a level-triggered line.
#[derive(Debug)]
pub struct SpiLine {
    vm: Arc<Vm>,
    spi: Spi,
}

impl SpiLine {
    /// The line of one device.
    pub fn new(vm: Arc<Vm>, spi: Spi) -> Arc<Self> {
        Arc::new(Self { vm, spi })
    }
}

impl IrqLine for SpiLine {
    fn set(&self, asserted: bool) -> io::Result<()> {
        self.vm.set_spi(self.spi, asserted)
    }
}
