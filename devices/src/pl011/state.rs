//! The registers, as they are saved.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::spec::{CR_RESET, FIFO_DEPTH, IFLS_RESET};

/// All that a PL011 remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pl011State {
    pub(super) received: Vec<u8>,
    pub(super) transmitted: bool,
    pub(super) irda: u32,
    pub(super) baud_integer: u32,
    pub(super) baud_fraction: u32,
    pub(super) line_control: u32,
    pub(super) control: u32,
    pub(super) levels: u32,
    pub(super) mask: u32,
    pub(super) dma: u32,
}

/// Why a saved PL011 is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// The FIFO never holds so much.
    #[error("the saved PL011 holds {0} received bytes, more than its FIFO of {FIFO_DEPTH}")]
    FifoTooLong(usize),
}

impl Default for Pl011State {
    fn default() -> Self {
        Self {
            received: Vec::with_capacity(FIFO_DEPTH),
            transmitted: false,
            irda: 0,
            baud_integer: 0,
            baud_fraction: 0,
            line_control: 0,
            control: CR_RESET,
            levels: IFLS_RESET,
            mask: 0,
            dma: 0,
        }
    }
}

impl Pl011State {
    /// Checks what came from a file.
    pub(super) fn check(self) -> Result<Self, RestoreError> {
        match self.received.len() {
            0..=FIFO_DEPTH => Ok(self),
            length => Err(RestoreError::FifoTooLong(length)),
        }
    }
}
