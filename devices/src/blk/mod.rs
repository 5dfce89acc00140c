//! The block device (virtio 1.2, §5.2) as a process: one image, opened and locked by whoever starts it.
//!
//! ```text
//!   chain ─► request (checked) ─► device ─► Medium ─┬─ raw: preadv and pwritev between file and guest memory
//!                                    │              └─ direct: the same, by way of a buffer where not aligned
//!                                 limiter: put back, served again at `Device::deadline`
//! ```
//! The format is what the settings say. Nothing in here ever looks at bytes that a guest may have written to find it out.

mod counters;
mod device;
mod direct;
mod medium;
mod raw;
mod request;
mod spec;
mod state;
mod sys;

use std::error::Error;
use std::fs::File;
use std::io;

pub use device::BlkDevice;
pub use direct::Alignment;
pub use spec::{CONFIG_SIZE, SECTOR};
pub use state::{Format, Serial, Settings};

use self::raw::Raw;
use crate::serve::{Entry, ServeError, run as serve};

/// An image whose size is known.
pub struct Image(Box<dyn medium::Medium>);

impl Image {
    /// Takes over a file that was opened as `settings` say.
    ///
    /// # Errors
    /// If its size cannot be found out.
    pub fn new(file: File, settings: &Settings) -> io::Result<Self> {
        Ok(Self(match settings.format {
            Format::Raw => Box::new(Raw::new(file, settings.direct)?),
        }))
    }
}

/// Runs the device process.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    image: Image,
    settings: Settings,
) -> Result<(), ServeError> {
    serve(entry, || BlkDevice::new(image.0, settings))
}

#[cfg(test)]
mod tests;
