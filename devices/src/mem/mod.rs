//! Memory that is plugged into a running guest and unplugged again (virtio 1.2, §5.15), as a process.
//!
//! ```text
//!   control ── "how much shall be plugged" ──► this process ── configuration change ──► the guest's driver
//!   driver ──── PLUG, UNPLUG blocks ─────────► this process: notes it; unplugged blocks become holes
//! ```
//! The blocks are a part of the file of guest memory, behind RAM, that no device tree tells of. A block that was never
//! plugged is a hole, one that is unplugged becomes a hole again: with neither data nor tags. Which blocks are plugged is noted in
//! a file that outlives the process (`state`), so that a successor knows.

mod device;
mod spec;
mod state;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fs::File;
use std::io;

pub use device::{MemDevice, Settings};
pub use spec::{BLOCK, CONFIG_SIZE, QUEUE_SIZES};

use crate::serve::{Entry, ServeError, try_run as serve};

/// Runs the device process. `notes` is an empty file, or what a predecessor has left of it.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    settings: Settings,
    notes: Option<File>,
) -> Result<(), ServeError> {
    serve(entry, || -> io::Result<MemDevice> { MemDevice::new(settings, notes) })
}
