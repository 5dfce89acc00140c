//! The memory balloon (virtio 1.2, §5.5) as a process: pages that the guest gives back, or reports to be free, become holes in
//! the file of its memory. A hole has neither data nor tags, and a page that is touched again is one of zeros.

mod device;
mod spec;
mod state;
#[cfg(test)]
mod tests;

use std::error::Error;

pub use device::{BalloonDevice, Settings};
pub use spec::{CONFIG_SIZE, queue_sizes};

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    settings: Settings,
) -> Result<(), ServeError> {
    serve(entry, || BalloonDevice::new(settings))
}
