//! The entropy device (virtio 1.2, §5.4) as a process: whatever the guest makes writable is filled from a source.

mod device;
mod spec;
mod state;

use std::error::Error;

pub use device::RngDevice;
pub use state::Source;

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process: `source` was opened by whoever spawned it, and nothing else is needed.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    source: Source,
) -> Result<(), ServeError> {
    serve(entry, || RngDevice::new(source))
}

#[cfg(test)]
mod tests;
