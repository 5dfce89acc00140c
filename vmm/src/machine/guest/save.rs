//! Saving a guest that stands still: devices quiet, tables flushed to guest memory, then everything read.
//!
//! ```text
//!  vCPUs at the gate ─► devices quiet ─► GIC and ITS tables ─► state.json ─► memory's file to the mover
//!                                                                        └─► live (`track`): the last writes into the log
//! ```
//! Nothing of the guest changes by it but that its devices stay quiet until it resumes; so a failure at any point leaves
//! a guest that can be resumed or saved again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use granule_arch::kvm::KvmError;
use granule_devices::dirty::LogFile;
use granule_devices::virtio::{Fault, StateError as DeviceError};
use granule_snapshot::state::{StateError, StateWriter};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::bus::{Attached, Bus, lock};
use super::regions::Regions;
use super::state::{self, DeviceState, VERSION};
use super::vcpus::Stuck;
use super::{Guest, GuestRam};
use crate::wire::{Blame, Channel, ChannelError, SharedMemory, SharedRegion};

/// Why a guest could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It has ended.
    #[error("the guest has ended")]
    Ended,
    /// A vCPU runs.
    #[error(transparent)]
    Stuck(#[from] Stuck),
    /// A device would not be quiet.
    #[error("device {id:?} does not stop")]
    Busy {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// What serves it may remember something, and does not say it.
    #[error(
        "device {0:?}: the program that serves it cannot save its state (VHOST_USER_PROTOCOL_F_DEVICE_STATE), and the guest's \
         driver would find a device that knows nothing of it; remove the device first"
    )]
    Stateless(String),
    /// A device's state.
    #[error("device {id:?}")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// KVM's part.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// What was read cannot be written down.
    #[error("the machine's state cannot be written")]
    State(#[from] StateError),
    /// The file for it.
    #[error("the machine's state cannot be passed on")]
    File(#[source] io::Error),
    /// The mover.
    #[error("guest memory cannot be passed on")]
    Memory(#[from] ShareError),
    /// Nobody has its memory.
    #[error("no live snapshot is under way")]
    Untracked,
}

impl SaveError {
    /// A device that cannot be saved is there by the client's configuration.
    pub fn blame(&self) -> Blame {
        if matches!(self, Self::Stateless(_)) { Blame::Request } else { Blame::Host }
    }
}

/// Why guest memory could not be passed to the mover.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Memory that is no file.
    #[error("the guest memory at {0:#x} is no file")]
    NoFile(u64),
    /// The socket.
    #[error("the mover cannot be reached")]
    Mover(#[from] ChannelError),
}

impl Guest {
    /// Writes its state to `state` and passes its memory to the mover, unless that has it ([`Self::track`]).
    pub fn save(&mut self, state: OwnedFd, mover: Option<OwnedFd>) -> Result<(), SaveError> {
        if self.ended {
            return Err(SaveError::Ended);
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.pauses();
        }
        let vcpus = self.vcpus.standing()?;
        self.bus.can_be_saved()?;
        self.bus.quiesce()?;
        let gic = self.vm.gic();
        gic.save_tables()?;
        let mut writer = StateWriter::default();
        writer.add(state::MACHINE, "", VERSION, &self.shape)?;
        for (index, vcpu) in vcpus.iter().enumerate() {
            writer.add(state::VCPU, &index.to_string(), VERSION, &vcpu.save()?)?;
        }
        writer.add(state::GIC, "", VERSION, &gic.save(self.shape.vcpus)?)?;
        writer.add(state::ITS, "", VERSION, &gic.save_its()?)?;
        if let Some(console) = &self.console {
            writer.add(state::UART, "", VERSION, &lock(&console.uart).save())?;
        }
        self.bus.save(&mut writer)?;
        File::from(state).write_all_at(&writer.encode()?, 0).map_err(SaveError::File)?;
        drop(vcpus);
        match (mover, &self.tracking) {
            (Some(mover), _) => share(&self.ram, Some(&self.bus.builder.regions), None, mover).map(drop)?,
            (None, Some(tracking)) => tracking.last_harvest(&self.vm, &self.bus)?,
            (None, None) => return Err(SaveError::Untracked),
        }
        Ok(())
    }
}

/// Passes guest memory, and memory of devices that only the guest has, to the mover, with the log of writes to it if there is one; hands its socket back.
pub(super) fn share(
    ram: &GuestRam,
    beside: Option<&Regions>,
    log: Option<&LogFile>,
    mover: OwnedFd,
) -> Result<OwnedFd, ShareError> {
    let mut regions = Vec::new();
    let mut files = Vec::new();
    let own = beside.into_iter().flat_map(Regions::own).map(|(_, memory)| memory);
    for region in ram.memory.iter().chain(own) {
        let gpa = region.start_addr().raw_value();
        let file = region.file_offset().ok_or(ShareError::NoFile(gpa))?;
        regions.push(SharedRegion { gpa, size: region.len(), offset: file.start() });
        files.push(file.file().as_fd());
    }
    files.extend(log.map(|log| log.file.as_fd()));
    let mover = Channel::from_fd(mover);
    mover.send(&SharedMemory { regions, log: log.map(|log| log.size) }, &files)?;
    Ok(mover.into())
}

impl Bus {
    /// Whether all that devices remember can be had.
    pub(super) fn can_be_saved(&self) -> Result<(), SaveError> {
        let cannot =
            |attached: &Attached| attached.may_remember && lock(&attached.device).cannot_tell_state();
        let found = self.devices.iter().find(|(_, attached)| cannot(attached));
        found.map_or(Ok(()), |(id, _)| Err(SaveError::Stateless(id.clone())))
    }

    /// Has every device stop where it is.
    fn quiesce(&self) -> Result<(), SaveError> {
        for (id, attached) in &self.devices {
            let quiet = lock(&attached.device).quiesce();
            quiet.map_err(|source| SaveError::Busy { id: id.clone(), source })?;
        }
        Ok(())
    }

    /// Lets those that are quiet go on. One that cannot is replaced as after a death.
    pub(super) fn wake(&self) {
        for (id, attached) in &self.devices {
            if let Err(error) = lock(&attached.device).wake() {
                tracing::warn!(id, error = &error as &dyn std::error::Error, "a device cannot go on");
            }
        }
    }

    fn save(&self, writer: &mut StateWriter) -> Result<(), SaveError> {
        writer.add(state::CLOCK, "", VERSION, &lock(&self.rtc).save())?;
        writer.add(state::GPIO, "", VERSION, &lock(&self.gpio).save())?;
        for segment in &self.builder.segments {
            let number = segment.layout().number.to_string();
            writer.add(state::SEGMENT, &number, VERSION, &segment.save_bridges())?;
        }
        for (id, Attached { device, segment, place, may_remember: _ }) in &self.devices {
            let saved = lock(device).save();
            let memory = self.builder.regions.saved(id);
            let virtio = saved.map_err(|source| SaveError::Device { id: id.clone(), source })?;
            writer.add(state::VIRTIO, id, VERSION, &DeviceState::new(*segment, *place, virtio, memory))?;
        }
        Ok(())
    }
}
