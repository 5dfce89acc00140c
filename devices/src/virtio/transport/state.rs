//! What a virtio device remembers, as it is saved: the function, the registers, the queues, and what its process keeps.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VirtioPciDevice;
use super::lifecycle::Phase;
use crate::hex::HexBytes;
use crate::pci::MsixState;
use crate::pci::spec::CONFIG_SIZE;
use crate::virtio::fault::Fault;

/// A virtio device that is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtioState {
    /// PCI configuration space.
    pub config: HexBytes,
    /// MSI-X.
    pub msix: MsixState,
    /// The interrupt status register.
    pub interrupt_status: u8,
    /// The common configuration structure.
    pub common: CommonState,
    /// Whether the back end is to serve the queues.
    pub running: bool,
    /// What the process remembers.
    pub process: HexBytes,
}

/// The registers of the common configuration structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommonState {
    pub(super) status: u8,
    pub(super) generation: u8,
    pub(super) config_vector: u16,
    pub(super) features: u64,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueState>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) next_available: u16,
}

/// Why a device cannot be saved, or a saved one is not this one.
#[derive(Debug, Error)]
pub enum StateError {
    /// Its back end still works, or is gone.
    #[error("the device is not quiet: its process is being replaced")]
    NotQuiet,
    /// The process.
    #[error("the device process's part of the state")]
    Process(#[source] Fault),
    /// The function.
    #[error("the PCI function")]
    Function(#[from] crate::pci::RestoreError),
    /// Another number of queues.
    #[error("the saved device has {saved} queues, this one {here}")]
    Queues {
        /// In the snapshot.
        saved: usize,
        /// Here.
        here: usize,
    },
    /// A size that the queue cannot have.
    #[error("saved queue {index} has a size of {size}")]
    QueueSize {
        /// Which.
        index: usize,
        /// What it is said to be.
        size: u16,
    },
    /// A feature that this device lacks.
    #[error("the saved driver uses features {saved:#x}, of which this device has only {here:#x}")]
    Features {
        /// What was agreed.
        saved: u64,
        /// What is offered.
        here: u64,
    },
}

impl VirtioPciDevice {
    /// Whether its back end may remember something, and cannot say what.
    #[must_use]
    pub fn cannot_tell_state(&self) -> bool {
        self.phase != Phase::Stopped && !self.backend.keeps_state()
    }

    /// What it remembers, while it is quiet ([`Self::quiesce`]).
    ///
    /// # Errors
    /// Where it is not, or its process does not say.
    pub fn save(&mut self) -> Result<VirtioState, StateError> {
        let running = match self.phase {
            Phase::Stopped => false,
            Phase::Quiet => true,
            Phase::Running | Phase::Suspect | Phase::Orphaned | Phase::Condemned => {
                return Err(StateError::NotQuiet);
            }
        };
        let process = self.backend.save().map_err(StateError::Process)?;
        let Self {
            id: _,
            config,
            msix_capability: _,
            window: _,
            msix,
            common,
            interrupt_status,
            phase: _,
            kicks: _,
            backend: _,
            memory: _,
            on_fault: _,
            on_driver: _,
        } = self;
        Ok(VirtioState {
            config: HexBytes(config.save()),
            msix: msix.save(),
            interrupt_status: *interrupt_status,
            common: common.save(),
            running,
            process: HexBytes(process),
        })
    }

    /// Puts back what was saved, into a device that is as it was at power-on. It then stands as after
    /// [`Self::quiesce`]; the segment has to be told to look at its BARs anew
    /// ([`PciSegment::reroute`](crate::pci::PciSegment::reroute)).
    ///
    /// # Errors
    /// Where it is not this device that was saved.
    pub fn restore(&mut self, state: &VirtioState) -> Result<(), StateError> {
        let VirtioState { config, msix, interrupt_status, common, running, process } = state;
        let window = self.window.data()..(self.window.data() + 4).min(CONFIG_SIZE);
        self.config.restore(&config.0, &[window])?;
        self.common.restore(common)?;
        self.msix.restore(msix)?;
        self.msix.set_control(self.config.read_u16(self.msix_capability + 2));
        self.interrupt_status = *interrupt_status;
        self.backend.restore(&process.0).map_err(StateError::Process)?;
        self.phase = if *running { Phase::Quiet } else { Phase::Stopped };
        Ok(())
    }
}
