//! The watchdog as a process: a guest whose driver falls silent is reset.
//!
//! Linux has no driver for it in its tree; Cloud Hypervisor's kernel has.

mod device;
mod spec;
mod state;

use std::error::Error;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use device::WatchdogDevice;
pub use spec::TIMEOUT;
pub use state::{PAUSE, RESUME};

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process; `bite` is an eventfd that it signals when the guest has not been heard of for `limit`.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    bite: OwnedFd,
    limit: Duration,
) -> Result<(), ServeError> {
    serve(entry, || WatchdogDevice::new(bite, limit))
}

#[cfg(test)]
mod tests;
