//! How far the mover has come, told to control now and then.

use crate::wire::{Channel, FromMover};

/// Told after so many pages more.
const STEP: u64 = 16 << 10;

/// See the module's description.
pub struct Progress<'a> {
    control: &'a Channel,
    of: u64,
    told: u64,
}

impl<'a> Progress<'a> {
    /// Nothing yet, of so many pages.
    pub fn new(control: &'a Channel, of: u64) -> Self {
        Self { control, of, told: 0 }
    }

    /// All before this page is done.
    pub fn reached(&mut self, page: u64) {
        if page >= self.told + STEP {
            self.told = page;
            // Whether control still listens is seen at the end.
            let _ = self.control.send(&FromMover::Progress { done: page, of: self.of }, &[]);
        }
    }
}
