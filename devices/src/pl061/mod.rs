//! The PL061 GPIO (Arm DDI 0190), whose pin 3 is the power button.
//!
//! ```text
//!   press() ─► pin 3 high ─► rising edge ─► guest reads 1 (key down) ─► pin 3 low ─► falling edge ─► key up
//! ```
//! The button is let go when the guest has looked: no timer, and no press too short to be seen.

mod device;
mod spec;
mod state;

pub use device::Pl061;
pub use state::Pl061State;

#[cfg(test)]
mod tests;
