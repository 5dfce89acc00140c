//! The registers, as they are saved.

use serde::{Deserialize, Serialize};

/// All that a PL061 remembers. Every value is a valid one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pl061State {
    pub(super) outputs: u8,
    pub(super) inputs: u8,
    pub(super) direction: u8,
    pub(super) sense: u8,
    pub(super) both_edges: u8,
    pub(super) event: u8,
    pub(super) mask: u8,
    pub(super) edges: u8,
    pub(super) mode: u8,
}
