//! What the device has: how large the balloon shall be, and how large the guest says it is, which is saved. The pages that are in it are
//! the guest's affair: one that is touched again is a page of zeros without tags.

use super::spec::{ACTUAL, CONFIG_SIZE, PAGE};

/// The configuration space, which is all of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub config: [u8; CONFIG_SIZE],
}

impl State {
    /// Bytes that the guest is asked to give back; whole pages, no more than the numbers go.
    pub fn ask(&mut self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.config[..4].copy_from_slice(&pages.to_le_bytes());
    }

    /// Bytes that the guest says it has given back: an allegation, for the record only.
    pub fn given(&self) -> u64 {
        let mut pages = [0; 4];
        pages.copy_from_slice(&self.config[ACTUAL]);
        u64::from(u32::from_le_bytes(pages)) * PAGE
    }

    /// Takes a write of the driver, of which `actual` alone is its own.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data).filter(|(at, _)| ACTUAL.contains(at)) {
            self.config[at] = *byte;
        }
    }
}
