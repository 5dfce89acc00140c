//! The network device (virtio 1.2, §5.1) as a process: packets between the guest's queues and taps of the host.
//!
//! ```text
//!   tap 0 ── readv ──► rx 0 ┐            tap k is read for pair k mod (pairs that the guest uses),
//!         ◄─ writev ── tx 0 ┤ pair 0     so that none is left unread
//!   tap 1 ── …              ┘ pair 1 …
//! ```
//! A packet goes from the tap into the guest's buffers by one call, and from the guest's buffers into the tap by one. Only
//! a packet that finds no room, or comes too early for its limit, waits in memory of ours: one for each tap. A tap is
//! looked at only while the guest has buffers for what may come.

mod batch;
mod device;
mod elsewhere;
mod spec;
mod state;
mod sys;
mod tap;

use std::error::Error;

pub use device::NetDevice;
pub use elsewhere::{Offer, elsewhere};
pub use spec::{
    CONFIG_SIZE, HEADER_SIZE, MAX_PAIRS, TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO,
};
pub use state::{Offloads, Settings, Taps};

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process: whoever spawned it has opened the taps.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    settings: Settings,
    taps: Taps,
) -> Result<(), ServeError> {
    serve(entry, || NetDevice::new(settings, taps))
}

#[cfg(test)]
mod tests;
