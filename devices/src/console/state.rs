//! What the console has besides its ends: the size of its window. There is nothing to save, since whoever starts the
//! process says how large its terminal is.

use super::spec::CONFIG_SIZE;

/// The size of the terminal that shows the console; 0 × 0 where nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Window {
    /// The order that tells a console of a new size.
    pub fn order(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }

    /// The size that an order tells.
    pub(super) fn from_order(order: &[u8]) -> Option<Self> {
        let [a, b, c, d] = *order else { return None };
        Some(Self { columns: u16::from_le_bytes([a, b]), rows: u16::from_le_bytes([c, d]) })
    }

    /// The device-specific configuration that says so: one port, no emergency output.
    pub(super) fn config(self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        config[..4].copy_from_slice(&self.order());
        config[4..8].copy_from_slice(&1u32.to_le_bytes());
        config
    }
}
