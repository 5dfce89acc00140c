//! A modern virtio device as a PCI function (virtio 1.2, §4.1).
//!
//! `common` has the registers, `layout` the BAR, `queue` the checks, `doorbells` the kicks and `lifecycle` what
//! starts and stops the back end. Everything here runs under the function's own lock, on the vCPU thread whose store caused it.

mod common;
mod doorbells;
mod layout;
mod lifecycle;
mod queue;
mod state;

use std::io;
use std::sync::Arc;

use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use self::common::{CommonConfig, Effect};
use self::doorbells::Kicks;
use self::layout::{BAR, MAX_QUEUES, MAX_VECTORS, NOTIFY, Place, Window};
use self::lifecycle::Phase;
use super::backend::VirtioBackend;
use super::fault::{DeviceFault, Fault};
use super::spec::{DeviceType, F_PASSED_ON, ISR_CONFIG, PCI_VENDOR_ID};
use crate::pci::spec::CAPABILITY_MSIX;
use crate::pci::{BarIndex, ConfigSpace, DecodedBar, Identity, Msix, PciFunction};
use crate::platform::{Doorbells, MsiVectors};

pub use self::state::{CommonState, QueueState, StateError, VirtioState};

/// Guest RAM; each region knows the file that it is a mapping of.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// Is told the device's id and what went wrong, on a vCPU thread: it must neither block nor call the device.
///
/// After a [`Fault::Device`] its owner sees to it that the process is dead, says so by
/// [`VirtioPciDevice::backend_gone`], and then either brings a new one ([`VirtioPciDevice::reconnect`]) or gives
/// the device up ([`VirtioPciDevice::demand_reset`]).
pub type FaultSink = Arc<dyn Fn(&str, &Fault) + Send + Sync>;

/// Is told the device's id and whether the guest's driver came up or reset the device; under [`FaultSink`]'s rules.
pub type DriverSink = Arc<dyn Fn(&str, DriverEvent) + Send + Sync>;

/// What the guest's driver did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// It is up: the back end serves its queues.
    Up,
    /// It has reset a device that was up.
    Reset,
}

/// One virtio device behind its PCI function.
pub struct VirtioPciDevice {
    id: String,
    config: ConfigSpace,
    msix_capability: usize,
    window: Window,
    msix: Msix,
    common: CommonConfig,
    interrupt_status: u8,
    phase: Phase,
    kicks: Kicks,
    backend: Box<dyn VirtioBackend>,
    memory: GuestMemory,
    on_fault: Option<FaultSink>,
    on_driver: Option<DriverSink>,
}

impl VirtioPciDevice {
    /// A device that `backend` serves, as it is at power-on.
    ///
    /// It wants one MSI-X vector for each queue and one for configuration changes; with fewer, queues share.
    pub fn new(
        id: impl Into<String>,
        device_type: DeviceType,
        backend: Box<dyn VirtioBackend>,
        vectors: Arc<dyn MsiVectors>,
        doorbells: Arc<dyn Doorbells>,
        memory: GuestMemory,
    ) -> Result<Self, Fault> {
        let queue_sizes = backend.queue_sizes();
        let sound = |size: &u16| size.is_power_of_two() && *size <= 1 << 15;
        if queue_sizes.len() > MAX_QUEUES || !queue_sizes.iter().all(sound) {
            return Err(DeviceFault::Lacks("queues of a size that virtio knows").into());
        }
        if vectors.count() > MAX_VECTORS {
            let source = io::ErrorKind::InvalidInput.into();
            return Err(Fault::Host { what: "fit so many MSI-X vectors into the BAR", source });
        }
        let kicks = Kicks::new(queue_sizes.len(), doorbells)
            .map_err(|source| Fault::Host { what: "make an eventfd", source })?;
        let msix = Msix::new(vectors);
        let common = CommonConfig::new(backend.features() & F_PASSED_ON, queue_sizes, msix.count());
        let mut config = ConfigSpace::new(identity(device_type));
        config.add_memory_bar(BAR, layout::BAR_SIZE);
        let window = layout::add_capabilities(&mut config, queue_sizes.len(), backend.config().len());
        let (body, writable) = msix.capability(BAR, layout::MSIX_TABLE as u32, layout::MSIX_PBA as u32);
        let msix_capability = config.add_capability(CAPABILITY_MSIX, &body, &writable);
        Ok(Self {
            id: id.into(),
            config,
            msix_capability,
            window,
            msix,
            common,
            interrupt_status: 0,
            phase: Phase::Stopped,
            kicks,
            backend,
            memory,
            on_fault: None,
            on_driver: None,
        })
    }

    /// Has `sink` told of every fault that a guest's access leads to.
    pub fn on_fault(mut self, sink: FaultSink) -> Self {
        self.on_fault = Some(sink);
        self
    }

    /// Has `sink` told when the guest's driver comes up, and when it resets the device.
    pub fn on_driver(mut self, sink: DriverSink) -> Self {
        self.on_driver = Some(sink);
        self
    }

    /// Its name in the VM's configuration.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the guest's driver is up.
    pub fn driver_ok(&self) -> bool {
        self.common.driver_ok()
    }

    /// The features that the driver has accepted.
    pub fn features(&self) -> u64 {
        self.common.features()
    }

    /// Reads the device-specific configuration anew, which has changed in the device's process, and tells the driver.
    pub fn refresh_config(&mut self) -> Result<(), Fault> {
        self.backend.refresh_config()?;
        self.config_changed();
        Ok(())
    }

    /// Tells the driver that the device-specific configuration has changed.
    pub fn config_changed(&mut self) {
        self.common.generation = self.common.generation.wrapping_add(1);
        self.interrupt_status |= ISR_CONFIG;
        self.msix.trigger(self.common.config_vector);
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Activate => self.activate(),
            Effect::Reset => self.reset_device(),
            Effect::QueueVector(index) => {
                let queue = &self.common.queues[usize::from(index)];
                if self.phase == Phase::Running && queue.enabled {
                    let call = self.msix.eventfd(queue.vector);
                    if let Err(fault) = self.backend.set_call(index, call) {
                        self.fail(&fault);
                    }
                }
            }
        }
    }

    fn read_device_config(&mut self, offset: u64, data: &mut [u8]) {
        if let Err(fault) = self.backend.read_config(offset, data) {
            self.fail(&fault);
        }
    }

    fn write_device_config(&mut self, offset: u64, data: &[u8]) {
        let size = self.backend.config().len() as u64;
        if offset + data.len() as u64 <= size
            && let Err(fault) = self.backend.write_config(offset, data)
        {
            self.fail(&fault);
        }
    }
}

impl PciFunction for VirtioPciDevice {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.window.touched_by(offset, data.len())
            && let Some((at, length)) = self.window.target(&self.config)
        {
            let mut value = [0; 4];
            self.bar_read(BAR, at, &mut value[..length]);
            self.config.put(self.window.data(), &value);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.msix.set_control(self.config.read_u16(self.msix_capability + 2));
        if self.window.touched_by(offset, data.len())
            && let Some((at, length)) = self.window.target(&self.config)
        {
            let value = self.config.read_u32(self.window.data()).to_le_bytes();
            self.bar_write(BAR, at, &value[..length]);
        }
    }

    fn bars(&self) -> Vec<DecodedBar> {
        self.config.decoded_bars()
    }

    fn bars_decoded(&mut self, decoded: &[DecodedBar]) {
        let bar = decoded.iter().find(|decoded| decoded.bar == BAR);
        self.kicks.place(bar.map(|decoded| decoded.range.base() + NOTIFY));
    }

    fn bar_read(&mut self, _bar: BarIndex, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match Place::of(offset) {
            Place::Common(at) => self.common.read(at, data),
            Place::Isr(0) => {
                if let Some(first) = data.first_mut() {
                    *first = std::mem::take(&mut self.interrupt_status);
                }
            }
            Place::Device(at) => self.read_device_config(at, data),
            Place::MsixTable(at) => self.msix.table_read(at, data),
            Place::MsixPba(at) => self.msix.pba_read(at, data),
            Place::Isr(_) | Place::Notify(_) | Place::Nothing => {}
        }
    }

    fn bar_write(&mut self, _bar: BarIndex, offset: u64, data: &[u8]) {
        match Place::of(offset) {
            Place::Common(at) => {
                let effect = self.common.write(at, data);
                self.apply(effect);
            }
            Place::Device(at) => self.write_device_config(at, data),
            Place::Notify(at) => self.kicks.ring(at),
            Place::MsixTable(at) => self.msix.table_write(at, data),
            Place::Isr(_) | Place::MsixPba(_) | Place::Nothing => {}
        }
    }

    fn reset(&mut self) {
        self.reset_device();
        self.msix.reset();
        self.config.reset();
        self.config.put(self.msix_capability + 2, &(self.msix.count() - 1).to_le_bytes());
    }
}

fn identity(device_type: DeviceType) -> Identity {
    Identity {
        vendor: PCI_VENDOR_ID,
        device: device_type.pci_device_id(),
        revision: 1,
        class: device_type.pci_class(),
        subsystem_vendor: PCI_VENDOR_ID,
        subsystem: device_type.pci_device_id(),
    }
}

#[cfg(test)]
mod tests;
