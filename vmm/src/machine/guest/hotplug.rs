//! Devices come and go.
//!
//! ```text
//!  add      ─► place chosen ─► hands shaken with the process ─► into the slot ─► the guest is told
//!  remove   ─► the guest is asked ─► … its driver lets go … ─► Letter::Released ─► out of the slot ─► Notice::DeviceRemoved
//! ```
//! A removal is a wish: when it is fulfilled is up to the guest, and until then the device works.
//!
//! Memory that a device brings along is there before the device is, and goes after it; all processes map it, since its pages
//! are good buffers for every device:
//! ```text
//!  add     ─► slot of the VM ─► SET_MEM_TABLE to each process ─► the device
//!  removed ─► SET_MEM_TABLE to each process ─► slot of the VM
//! ```

use std::sync::Arc;

use granule_devices::pci::{
    Bdf, DecodedBar, InsertError, PciSegment, PortPlace, Release, RootPort, port_places,
};

use super::bus::{Attached, Builder, Bus, BusError, lock, may_remember};
use super::placement::{self, Place, Wanted};
use crate::machine::turn::Descriptors;
use crate::wire::{Blame, BusDevice, DeviceReport, DeviceSpec};

/// Why a device cannot be removed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RemoveError {
    /// There is no such device.
    #[error("there is no device {0:?}")]
    Unknown(String),
    /// It cannot be taken out.
    #[error(
        "device {0:?} was there at boot and sits on the root bus, which a guest by device tree does not watch; remove it \
         while the VM is shut down"
    )]
    Fixed(String),
}

impl RemoveError {
    /// It is the request that names the wrong device.
    pub fn blame(&self) -> Blame {
        Blame::Request
    }
}

impl Builder {
    /// Gives a segment its root ports.
    pub(super) fn add_ports(&self, segment: &PciSegment) -> Result<(), BusError> {
        let number = segment.layout().number;
        for PortPlace { bdf, home, shared } in port_places(placement::ports(number)) {
            let id = format!("the root port {number:04x}:{bdf}");
            let vectors = self.vectors(&id, number, bdf, 1)?;
            let postman = self.postman()?;
            let on_release = Arc::new(move || lock(&postman).released(number, home));
            // The number that is painted on the slot: no two are the same.
            let slot = number << 4 | u16::from(home);
            let port = RootPort::new(home, slot, shared, vectors, on_release);
            segment.add_port(bdf, port).map_err(|source| BusError::Slot { id, source })?;
        }
        Ok(())
    }
}

impl Bus {
    /// Adds a device to a guest that runs.
    pub fn add_hot(&mut self, spec: &DeviceSpec, fds: &mut Descriptors) -> Result<DeviceReport, BusError> {
        if let Some(memory) = spec.memory {
            let Builder { regions, vm, .. } = &mut self.builder;
            regions.add(&spec.id, memory, fds, vm)?;
            self.remap();
        }
        let added = self.add(spec, placement::hot(), fds);
        if added.is_err() {
            self.take_memory(&spec.id);
        }
        added
    }

    /// Takes away the memory that a device has brought along, if it has.
    fn take_memory(&mut self, id: &str) {
        let Some(window) = self.builder.regions.remove(id) else { return };
        self.remap();
        if let Err(error) = self.builder.vm.remove_memory(window.base().0) {
            // The guest keeps what it has let go of, until it ends.
            tracing::warn!(id, error = &error as &dyn std::error::Error, "memory cannot be taken away");
        }
    }

    /// Has every device that runs share what memory there is now.
    fn remap(&self) {
        if let Err(error) = self.builder.share_regions() {
            // All have windows of their own, so this cannot be.
            tracing::error!(error = &error as &dyn std::error::Error, "memory cannot be shared");
            return;
        }
        self.devices.values().for_each(|attached| lock(&attached.device).remap());
    }

    /// Builds a device and puts it where it is wanted. What fails leaves nothing behind.
    pub(super) fn add(
        &mut self,
        spec: &DeviceSpec,
        wanted: Wanted,
        fds: &mut Descriptors,
    ) -> Result<DeviceReport, BusError> {
        let no_slot = |source| BusError::Slot { id: spec.id.clone(), source };
        let segment = self.builder.segment(spec)?.clone();
        let place = placement::choose(&segment, wanted).map_err(no_slot)?;
        let bdf = bdf_at(&segment, place).map_err(no_slot)?;
        let device = self.builder.device(spec, bdf, fds)?;
        match place {
            Place::RootBus(slot) => segment.insert(slot, device.clone()).map(drop),
            Place::Port(home) => segment.plug(home, device.clone()),
        }
        .map_err(no_slot)?;
        let may_remember = may_remember(&spec.served);
        self.devices.insert(spec.id.clone(), Attached { device, segment: spec.segment, place, may_remember });
        Ok(report(spec, &segment, place, bdf))
    }

    /// Asks the guest to let go of a device; answers whether it can be taken out at once.
    pub fn release(&self, id: &str) -> Result<Release, RemoveError> {
        let attached = self.devices.get(id).ok_or_else(|| RemoveError::Unknown(id.into()))?;
        let Place::Port(home) = attached.place else { return Err(RemoveError::Fixed(id.into())) };
        let segment = self.builder.segments.get(usize::from(attached.segment));
        Ok(segment.map_or(Release::Done, |segment| segment.release(home)))
    }

    /// Takes out what the guest has let go of; answers whose slot it was.
    pub fn take_out(&mut self, segment: u16, home: u8) -> Option<String> {
        let here = |attached: &Attached| attached.segment == segment && attached.place == Place::Port(home);
        let id = self.devices.iter().find(|(_, attached)| here(attached))?.0.clone();
        self.builder.segments.get(usize::from(segment))?.unplug(home);
        self.devices.remove(&id);
        self.builder.alarms().forget(&id);
        self.take_memory(&id);
        Some(id)
    }

    /// [`Self::take_out`], by the device's name.
    pub fn take_out_named(&mut self, id: &str) -> Option<String> {
        match self.devices.get(id)? {
            Attached { segment, place: Place::Port(home), .. } => self.take_out(*segment, *home),
            _ => None,
        }
    }
}

/// What the guest will know the function by.
fn bdf_at(segment: &PciSegment, place: Place) -> Result<Bdf, InsertError> {
    match place {
        Place::RootBus(slot) => Bdf::on_root_bus(slot).ok_or(InsertError::NoSuchSlot(slot)),
        Place::Port(home) => {
            segment.bus_of(home).and_then(|bus| Bdf::new(bus, 0, 0)).ok_or(InsertError::NoSuchPort(home))
        }
    }
}

fn report(spec: &DeviceSpec, segment: &PciSegment, place: Place, bdf: Bdf) -> DeviceReport {
    // Behind a port the guest gives addresses, and gives them later.
    let assigned = segment.functions().into_iter().find(|(at, _)| *at == bdf);
    let bar = |bar: &DecodedBar| BusDevice {
        index: bar.bar.number(),
        base: bar.range.base(),
        size: bar.range.size(),
        prefetchable: false,
    };
    DeviceReport {
        id: spec.id.clone(),
        bdf: format!("{:04x}:{bdf}", spec.segment),
        port: match place {
            Place::RootBus(_) => None,
            Place::Port(home) => Some(home),
        },
        bars: assigned.iter().flat_map(|(_, bars)| bars).map(bar).collect(),
    }
}
