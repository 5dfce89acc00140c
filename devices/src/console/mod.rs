//! The console device (virtio 1.2, §5.3) as a process: `hvc0` of the guest, one port.
//!
//! A guest that writes never waits for whoever reads, and whoever types never fills our memory: both ways are bounded.

mod device;
mod ends;
mod spec;
mod state;

use std::error::Error;

pub use device::ConsoleDevice;
pub use ends::Ends;
pub use spec::CONFIG_SIZE;
pub use state::Window;

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process: its ends were opened by whoever spawned it, who says how large the terminal is, too.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    ends: Ends,
    window: Window,
) -> Result<(), ServeError> {
    serve(entry, || ConsoleDevice::new(ends, window))
}

#[cfg(test)]
mod tests;
