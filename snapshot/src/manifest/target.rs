//! Whether a snapshot can be restored here: refused with the reason before anything changes, never with loss.

use thiserror::Error;

use super::Manifest;
use crate::layout::PageSize;

/// Where a snapshot is to be restored.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The host's architecture, as in `uname -m`.
    pub arch: &'a str,
    /// The host kernel's page size.
    pub page_size: PageSize,
    /// The level of memory tagging that the host gives to guests on shared memory; `None` without.
    pub host_mte: Option<u8>,
    /// Whether the VM's configuration has it on.
    pub vm_mte: bool,
}

/// Why a snapshot cannot be restored here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another architecture.
    #[error("snapshot of a machine of architecture {snapshot}, this host is {host}")]
    Arch {
        /// The snapshot's.
        snapshot: String,
        /// The host's.
        host: String,
    },
    /// Another page size.
    #[error("snapshot with pages of {snapshot} bytes, this host's have {host}")]
    PageSize {
        /// The snapshot's.
        snapshot: usize,
        /// The host's.
        host: usize,
    },
    /// Tags, and the host has no place for them.
    #[error("snapshot of a machine with memory tagging, which this host does not have for guests")]
    HostWithoutMte,
    /// Tags, and the configuration has them off.
    #[error("snapshot of a machine with memory tagging, and the configuration has it off")]
    MteOff,
    /// No tags, and the configuration asks for them.
    #[error("snapshot of a machine without memory tagging, and the configuration has it on")]
    MteOn,
    /// Another level.
    #[error("snapshot of a machine with memory tagging of level {snapshot}, this host has level {host}")]
    MteLevel {
        /// The snapshot's.
        snapshot: u8,
        /// The host's.
        host: u8,
    },
}

impl Manifest {
    /// Checks that the snapshot can be restored at `target`.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn check_target(&self, target: &Target<'_>) -> Result<(), Refusal> {
        if self.arch != target.arch {
            return Err(Refusal::Arch { snapshot: self.arch.clone(), host: target.arch.to_owned() });
        }
        if self.layout.page_size() != target.page_size {
            let (snapshot, host) = (self.layout.page_size().bytes(), target.page_size.bytes());
            return Err(Refusal::PageSize { snapshot, host });
        }
        match (self.mte, target.vm_mte, target.host_mte) {
            (None, false, _) => Ok(()),
            (None, true, _) => Err(Refusal::MteOn),
            (Some(_), _, None) => Err(Refusal::HostWithoutMte),
            (Some(_), false, _) => Err(Refusal::MteOff),
            (Some(snapshot), true, Some(host)) if snapshot != host => {
                Err(Refusal::MteLevel { snapshot, host })
            }
            (Some(_), true, Some(_)) => Ok(()),
        }
    }
}
