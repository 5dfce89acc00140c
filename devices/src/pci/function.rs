//! One PCI function, as its segment drives it.

use std::sync::{Arc, Mutex};

use super::address::{AddressRange, BarIndex};
use super::port::Forwarding;
use super::state::RestoreError;

/// A memory BAR as the guest has set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedBar {
    /// Which BAR.
    pub bar: BarIndex,
    /// The addresses that it answers to.
    pub range: AddressRange,
}

/// A function as it is held: behind a lock of its own, so that a slow one delays only itself.
pub type SharedFunction = Arc<Mutex<dyn PciFunction>>;

/// One PCI function.
///
/// Offsets come from the guest; the segment has checked that `offset + data.len()` lies in configuration space or
/// in the BAR, and that configuration accesses are 1, 2 or 4 bytes wide and aligned. BAR accesses have any width
/// from 1 to 8 and any alignment.
pub trait PciFunction: Send {
    /// Reads configuration space.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);

    /// Writes configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]);

    /// The memory BARs as they stand, if memory decoding is on; empty otherwise.
    ///
    /// These are the guest's allegations: the segment drops those outside its windows or in another's way.
    fn bars(&self) -> Vec<DecodedBar>;

    /// Is told which of [`PciFunction::bars`] the segment now decodes, each time that this may have changed.
    fn bars_decoded(&mut self, decoded: &[DecodedBar]) {
        let _ = decoded;
    }

    /// Reads from a BAR.
    fn bar_read(&mut self, bar: BarIndex, offset: u64, data: &mut [u8]);

    /// Writes to a BAR.
    fn bar_write(&mut self, bar: BarIndex, offset: u64, data: &[u8]);

    /// What it lets through to the bus behind it; `None` where it is no bridge.
    fn forwarding(&self) -> Option<Forwarding> {
        None
    }

    /// Its configuration space, where that is all that it remembers: bridges.
    fn save_bridge(&self) -> Option<Vec<u8>> {
        None
    }

    /// Puts back what [`PciFunction::save_bridge`] gave.
    ///
    /// # Errors
    /// Where it is not that of such a function.
    fn restore_bridge(&mut self, saved: &[u8]) -> Result<(), RestoreError> {
        Err(RestoreError::Size(saved.len()))
    }

    /// Puts the function into the state that it had after power-on, except for the addresses in its BARs.
    fn reset(&mut self);
}
