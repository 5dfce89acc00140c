//! The guest that this process runs, from the first ioctl to the last thread.
//!
//! ```text
//!  Host::open ─► Guest::build ─► paused ⇄ running ─► halted (the guest ended itself) ─► drop
//!                 │ memory ─► VM ─► tags on/off ─► slots ─► vCPUs ─► GIC ─► bus ─► kernel, FDT ─► threads
//! ```
//!
//! Everything that exists for the guest is owned here, so dropping a [`Guest`] ends it: threads first, then devices, then
//! the VM, then memory.

mod build;
mod bus;
mod console;
mod doorbells;
mod exits;
mod host;
mod hotplug;
mod interrupts;
mod late;
mod placement;
mod regions;
mod restore;
mod save;
mod state;
mod track;
mod vcpus;
mod wires;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};

use granule_arch::kvm::Vm;

pub use host::Host;
pub use restore::Restoring;

use super::memory::GuestRam;
use super::turn::Descriptors;
use crate::wire::{DeviceReport, DeviceSpec};
use bus::{Bus, BusError};
use console::Console;
use granule_devices::pci::Release;
use hotplug::RemoveError;
use state::Shape;
use track::Tracking;
use vcpus::{Stuck, Vcpus};

/// A built guest. Fields are dropped in this order.
#[derive(Debug)]
pub struct Guest {
    vcpus: Vcpus,
    ended: bool,
    console: Option<Console>,
    bus: Bus,
    shape: Shape,
    /// A live snapshot is under way.
    tracking: Option<Tracking>,
    vm: Arc<Vm>,
    ram: GuestRam,
}

/// Why a device's new process could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// There is no such device.
    #[error("there is no device {0:?}")]
    Unknown(String),
    /// The device did not accept it.
    #[error("device {id:?} could not go on with its new process")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: granule_devices::virtio::Fault,
    },
}

impl Guest {
    /// Stops all vCPUs between two instructions.
    pub fn pause(&self) -> Result<(), Stuck> {
        self.vcpus.pause()
    }

    /// Lets them run, unless the guest has ended; devices that were quiet for a snapshot first.
    pub fn resume(&self) {
        if !self.ended {
            self.bus.wake();
            self.vcpus.open();
        }
    }

    /// How often vCPUs came back from the guest, by reason.
    pub fn exits(&self) -> std::collections::BTreeMap<String, u64> {
        self.vcpus.exits()
    }

    /// The guest ended itself: nobody enters it again.
    pub fn halt(&mut self) {
        self.ended = true;
        self.vcpus.halt();
    }

    /// Presses and releases the power button.
    pub fn press_power_button(&self) {
        self.bus.press_power_button();
    }

    /// Gives the serial port a client.
    pub fn attach_serial(&self, connection: OwnedFd) {
        if let Some(console) = &self.console {
            console.attach(connection);
        }
    }

    /// Nobody serves a device any more: the guest is told that it needs a reset.
    pub fn backend_gone(&self, id: &str) -> Result<(), ReplaceError> {
        let device = self.bus.device(id).ok_or_else(|| ReplaceError::Unknown(id.into()))?;
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        device.backend_gone();
        device.demand_reset();
        Ok(())
    }

    /// The guest has broken a queue of a device; answers whether that was news to it.
    pub fn queue_broken(&self, id: &str) -> bool {
        let Some(device) = self.bus.device(id) else { return false };
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        let news = device.is_up() && !device.needs_reset();
        if news {
            device.demand_reset();
        }
        news
    }

    /// A device's configuration space has changed in its process.
    pub fn config_changed(&self, id: &str) -> Result<(), ReplaceError> {
        let device = self.bus.device(id).ok_or_else(|| ReplaceError::Unknown(id.into()))?;
        let refreshed = device.lock().unwrap_or_else(PoisonError::into_inner).refresh_config();
        refreshed.map_err(|source| ReplaceError::Device { id: id.into(), source })
    }

    /// Adds a device to the guest while it runs.
    pub fn add_device(&mut self, spec: &DeviceSpec, fds: &mut Descriptors) -> Result<DeviceReport, BusError> {
        self.bus.add_hot(spec, fds)
    }

    /// Asks the guest to let go of a device; answers its name if it is gone already.
    pub fn remove_device(&mut self, id: &str) -> Result<Option<String>, RemoveError> {
        match self.bus.release(id)? {
            Release::Done => Ok(self.bus.take_out_named(id)),
            Release::Asked => Ok(None),
        }
    }

    /// Takes out what the guest has let go of, and answers its name.
    pub fn take_out(&mut self, segment: u16, home: u8) -> Option<String> {
        self.bus.take_out(segment, home)
    }

    /// Lets a device go on with a new process.
    pub fn replace_backend(&self, id: &str, socket: OwnedFd) -> Result<(), ReplaceError> {
        let device = self.bus.device(id).ok_or_else(|| ReplaceError::Unknown(id.into()))?;
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        device.backend_gone();
        let taken_up = device.reconnect(UnixStream::from(socket));
        if taken_up.is_err() {
            device.demand_reset();
        }
        taken_up.map_err(|source| ReplaceError::Device { id: id.into(), source })
    }
}
