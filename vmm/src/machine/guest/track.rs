//! A live snapshot, on the machine's side: what is written to guest memory is logged while the mover copies it.
//!
//! ```text
//!  track ─► harvest … harvest ─► save: vCPUs and devices stop, tables ─► last harvest ─► release: all run on
//!    │        └ KVM's log into the one that devices and mover share          └ used rings, too
//!    └ devices log what they write (VHOST_F_LOG_ALL), KVM what the guest writes, and then the mover is given memory
//! ```
//! The log is one file (`granule_devices::dirty`). KVM write-protects what it reports before it answers, and so the mover,
//! who takes the log after that and reads after it has taken, has each page as it was when it was last written, or it is in
//! the next harvest (`models/src/precopy`). Whatever fails, [`Guest::release`] leaves a guest that runs as it did before.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use granule_arch::kvm::{KvmError, Vm};
use granule_devices::dirty::{DirtyLog, LogFile};
use granule_devices::virtio::Fault;
use vm_memory::{Address, GuestMemoryBackend};

use super::Guest;
use super::bus::{Bus, lock};
use super::save::{SaveError, ShareError, share};
use crate::wire::Blame;

/// Why a guest's writes cannot be logged.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// One at a time.
    #[error("a live snapshot is under way")]
    UnderWay,
    /// The guest has ended.
    #[error("the guest has ended")]
    Ended,
    /// A device that cannot be saved.
    #[error(transparent)]
    Unsaved(#[from] SaveError),
    /// Memory whose writes KVM is not asked to log.
    #[error(
        "device {0:?}: writes to its memory, which is a copy of its image, are not logged; pause the VM first"
    )]
    Region(String),
    /// The log.
    #[error("there is no room for a log of writes")]
    Log(#[source] io::Error),
    /// A device.
    #[error("the writes of device {id:?} cannot be logged; pause the VM first")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The mover.
    #[error("guest memory cannot be passed on")]
    Share(#[from] ShareError),
}

impl TrackError {
    /// A device that cannot take part is there by the client's configuration.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Device { .. } | Self::Region(_) => Blame::Request,
            Self::Unsaved(error) => error.blame(),
            _ => Blame::Host,
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Tracking {
    log: DirtyLog,
    /// Since when the guest stands still for it.
    paused: Option<Instant>,
}

impl Tracking {
    /// The guest is about to be stopped.
    pub fn pauses(&mut self) {
        self.paused = Some(Instant::now());
    }

    /// Nobody writes any more: takes what was written since the last harvest. Used rings are taken as written, for the
    /// programs of others need not log them with the rest.
    pub fn last_harvest(&self, vm: &Vm, bus: &Bus) -> Result<(), KvmError> {
        for attached in bus.devices.values() {
            lock(&attached.device).used_rings().for_each(|(address, bytes)| self.log.mark(address, bytes));
        }
        self.harvest(vm)
    }

    fn harvest(&self, vm: &Vm) -> Result<(), KvmError> {
        vm.take_log(|address, bytes| self.log.mark(address, bytes))
    }
}

impl Guest {
    /// Logs writes from now on, and gives the mover memory and log.
    pub fn track(&mut self, mover: OwnedFd) -> Result<(), TrackError> {
        if self.tracking.is_some() {
            return Err(TrackError::UnderWay);
        }
        if self.ended {
            return Err(TrackError::Ended);
        }
        self.bus.can_be_saved()?;
        if let Some((id, _)) = self.bus.builder.regions.own().next() {
            return Err(TrackError::Region(id.to_owned()));
        }
        let file = LogFile::create(self.ram.memory.last_addr().raw_value().saturating_add(1));
        let file = file.map_err(TrackError::Log)?;
        self.tracking = Some(Tracking { log: file.map().map_err(TrackError::Log)?, paused: None });
        let begun = self
            .begin_logging(&file)
            .and_then(|()| Ok(share(&self.ram, None, Some(&file), mover).map(drop)?));
        if begun.is_err() {
            self.release();
        }
        begun
    }

    fn begin_logging(&self, file: &LogFile) -> Result<(), TrackError> {
        for (id, attached) in &self.bus.devices {
            let logged = lock(&attached.device).log_writes(Some(file));
            logged.map_err(|source| TrackError::Device { id: id.clone(), source })?;
        }
        Ok(self.vm.log_writes(true)?)
    }

    /// Puts what KVM has logged into the mover's log.
    pub fn harvest(&self) -> Result<(), KvmError> {
        self.tracking.as_ref().map_or(Ok(()), |tracking| tracking.harvest(&self.vm))
    }

    /// Ends it: the guest runs on if it was stopped for this. Answers for how many microseconds it was.
    pub fn release(&mut self) -> u64 {
        let Some(Tracking { log: _, paused }) = self.tracking.take() else { return 0 };
        for (id, attached) in &self.bus.devices {
            if let Err(error) = lock(&attached.device).log_writes(None) {
                tracing::warn!(id, error = &error as &dyn std::error::Error, "a device goes on logging");
            }
        }
        let stood = paused.map_or(0, |since| {
            self.resume();
            u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
        });
        if let Err(error) = self.vm.log_writes(false) {
            // It is only slower by that.
            tracing::warn!(error = &error as &dyn std::error::Error, "KVM goes on logging");
        }
        stood
    }
}
