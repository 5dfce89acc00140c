//! What `control` knows of its one virtual machine.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use granule_api::config::{Checked, VmConfig, names};
use granule_api::error::{ApiError, ErrorKind};

use granule_api::types::JailInfo;

use super::admission::Lifecycle;
use super::console_end::ConsoleEnd;
use super::devices::{Groups, Ids};
use super::watchdog_end::WatchdogEnd;
use crate::wire::BootReport;

/// The machine, each state with what exists in it.
#[derive(Debug)]
pub enum Vm {
    /// Nothing.
    Absent,
    /// A configuration.
    Created(Box<Created>),
    /// A built guest.
    Live(Box<Created>, Box<Live>),
}

/// A configuration that was checked.
#[derive(Debug)]
pub struct Created {
    /// As sent, with defaults and (after the first boot) ids filled in: what vm.info echoes.
    pub config: VmConfig,
    /// As checked.
    pub checked: Checked,
    /// Whether the guest gets tags, and if not, why.
    pub mte: MteDecision,
    /// Names devices that were given none.
    pub ids: Ids,
    /// Descriptors that came with the request for a device, by its name: taps of vm.add-net. Kept for every boot.
    pub passed: PassedFds,
    /// What the disks of a group share.
    pub groups: Groups,
}

/// Descriptors that came with requests, by the name of the device that they are for.
pub type PassedFds = BTreeMap<String, Vec<OwnedFd>>;

/// The answer to `cpus.features.mte` on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MteDecision {
    /// The guest has tags.
    On,
    /// It has none.
    Off {
        /// Why.
        reason: String,
    },
}

/// A guest that was built.
#[derive(Debug)]
pub struct Live {
    /// What `machine` said of it.
    pub report: BootReport,
    /// Whether its vCPUs stand still.
    pub paused: bool,
    /// Whether its writes are logged, for a live snapshot.
    pub tracked: bool,
    /// How its processes are confined.
    pub jail: JailInfo,
    /// What the serial port holds on the host.
    pub _serial: SerialEnd,
    /// What the console holds on the host.
    pub _console: Option<ConsoleEnd>,
    /// Hears the watchdog.
    pub _watchdog: Option<WatchdogEnd>,
}

/// The host's end of a guest's serial port, where it needs keeping.
#[derive(Debug)]
pub enum SerialEnd {
    /// Nothing to keep.
    None,
    /// A pseudo-terminal. The second side stays open, so that the first does not hang up while nobody looks.
    Pty {
        /// Kept open, never read.
        _second: OwnedFd,
    },
    /// A listening socket; removed when this goes.
    Socket {
        /// The task that accepts.
        acceptor: tokio::task::JoinHandle<()>,
        /// The socket's file.
        path: PathBuf,
    },
}

impl Drop for SerialEnd {
    fn drop(&mut self) {
        if let Self::Socket { acceptor, path } = self {
            acceptor.abort();
            if let Err(error) = std::fs::remove_file(&*path) {
                tracing::warn!(?path, %error, "the serial socket could not be removed");
            }
        }
    }
}

impl Vm {
    /// The state's name in the admission table.
    pub fn lifecycle(&self) -> Lifecycle {
        match self {
            Self::Absent => Lifecycle::Absent,
            Self::Created(_) => Lifecycle::Created,
            Self::Live(_, live) if live.paused => Lifecycle::Paused,
            Self::Live(..) => Lifecycle::Running,
        }
    }

    /// The configuration, in whatever state.
    pub fn created(&self) -> Option<&Created> {
        match self {
            Self::Absent => None,
            Self::Created(created) | Self::Live(created, _) => Some(created),
        }
    }

    /// The same, to be changed.
    pub fn created_mut(&mut self) -> Option<&mut Created> {
        match self {
            Self::Absent => None,
            Self::Created(created) | Self::Live(created, _) => Some(created),
        }
    }

    /// Refuses an id that is not that of a disk.
    pub fn must_have_disk(&self, id: &str) -> Result<(), ApiError> {
        let config = self.created().map(|created| &created.config);
        let is = |known: &Option<String>| known.as_deref() == Some(id);
        if config.is_some_and(|config| config.disks.iter().any(|disk| is(&disk.id))) {
            return Ok(());
        }
        let known = config.is_some_and(|config| names(config).any(|name| name == id));
        Err(if known {
            ApiError::new(ErrorKind::BadRequest, "id: this device is not a disk")
        } else {
            ApiError::new(ErrorKind::NotFound, "id: there is no device of this name")
        })
    }

    /// The built guest.
    pub fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Self::Live(_, live) => Some(live),
            _ => None,
        }
    }

    /// Live → Created: the guest is gone, its configuration stays.
    pub fn demolish(&mut self) {
        *self = match std::mem::replace(self, Self::Absent) {
            Self::Live(created, _) => Self::Created(created),
            other => other,
        };
    }
}
