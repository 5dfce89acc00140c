//! What a PCI function remembers, as it is saved.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The vector table, and which vectors wait behind a mask. Whether MSI-X is on stands in configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    /// Of each vector: address low, address high, data, control.
    pub entries: Vec<[u32; 4]>,
    /// The pending ones.
    pub pending: Vec<u16>,
}

/// Why a saved function is not this one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// It has another number of bytes of configuration space.
    #[error("a saved PCI configuration space of {0} bytes")]
    Size(usize),
    /// What the guest cannot change differs: another kind of device, or other capabilities.
    #[error("the saved PCI function differs from this one at offset {0:#x} of its configuration space")]
    Identity(usize),
    /// It has another number of interrupt vectors.
    #[error("the saved PCI function has {saved} interrupt vectors, this one {here}")]
    Vectors {
        /// In the snapshot.
        saved: usize,
        /// Here.
        here: usize,
    },
    /// Other root ports.
    #[error("the saved PCI segment has {saved} bridges, this one {here}")]
    Bridges {
        /// In the snapshot.
        saved: usize,
        /// Here.
        here: usize,
    },
    /// A pending interrupt of a vector that is not there.
    #[error("vector {0} is pending and is not there")]
    Pending(u16),
}
