//! The persistent memory device (virtio 1.2, §5.19) as a process.
//!
//! ```text
//!   guest ── loads and stores ──► memory, a slot of the VM and a region of every device process
//!         ── FLUSH ──► this process ──► the image (fdatasync; before that, write-back where memory is a copy)
//! ```
//! | | the guest's memory is | a flush |
//! |---|---|---|
//! | without tags | the file itself, mapped shared | `fdatasync` |
//! | with tags, read-only | a copy in the cache of the host (`cache`) | nothing to do |
//! | with tags, writable | a copy of its own (`load`) | `writeback` |
//! | `discard_writes` | a copy of its own | nothing to do |
//!
//! With tags, because the kernel has no tags for pages of files. With `discard_writes`, because a private mapping would be
//! private to one process, and the other devices would not see what the guest wrote.

mod cache;
mod device;
mod load;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod writeback;

use std::error::Error;

pub use cache::{CacheFile, Held};
pub use device::PmemDevice;
pub use load::{Identity, LoadError, is_loaded, load, mark_loaded};
pub use spec::{CONFIG_SIZE, config};
pub use state::Medium;
pub use writeback::WriteBack;

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process: `medium` is open, and what had to be loaded is.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    medium: Medium,
    size: u64,
) -> Result<(), ServeError> {
    serve(entry, || PmemDevice::new(medium, size))
}
