//! The PL011 UART, which Linux knows as `ttyAMA0` (Arm DDI 0183).
//!
//! ```text
//!   guest ─ UARTDR ─► sink                      (at once; the transmit FIFO is always empty)
//!   guest ◄─ UARTDR ─ receive FIFO ◄─ receive() (as much as there is room for; rx_event when there is again)
//! ```

mod device;
mod spec;
mod state;

pub use device::Pl011;
pub use state::{Pl011State, RestoreError};

#[cfg(test)]
mod tests;
