//! The block device (virtio 1.2, §5.2) as a process: one image, opened and locked by whoever starts it.
//!
//! ```text
//!   chain ─► request (checked) ─► device ─► Medium ─┬─ raw: preadv and pwritev between file and guest memory
//!                                    │              ├─ direct: the same, by way of a buffer where not aligned
//!                                    │              └─ qcow2: by a library, its tables written before each answer
//!                                 limiter: put back, served again at `Device::deadline`
//! ```
//! The format is what the settings say. Nothing in here ever looks at bytes that a guest may have written to find it out.

mod counters;
mod device;
mod direct;
mod medium;
mod qcow2;
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

use self::medium::Medium;
use self::qcow2::Qcow2;
use self::raw::Raw;
use crate::rate::Group;
use crate::serve::{Entry, ServeError, try_run as serve};

/// An image of which everything is known that its file says from outside; what is in it is read in the jail.
pub struct Image(Opened);

enum Opened {
    Raw(Raw),
    Qcow2(qcow2::Storage),
}

impl Image {
    /// Takes over a file that was opened as `settings` say.
    ///
    /// # Errors
    /// If its size cannot be found out.
    pub fn new(file: File, settings: &Settings) -> io::Result<Self> {
        Ok(Self(match settings.format {
            Format::Raw => Opened::Raw(Raw::new(file, settings.direct)?),
            Format::Qcow2 => Opened::Qcow2(file.try_into()?),
        }))
    }

    fn into_device(self, settings: Settings) -> io::Result<BlkDevice> {
        let medium: Box<dyn Medium> = match self.0 {
            Opened::Raw(raw) => Box::new(raw),
            Opened::Qcow2(storage) => Box::new(Qcow2::new(storage, settings.readonly)?),
        };
        Ok(BlkDevice::new(medium, settings))
    }
}

/// Runs the device process; its limits are those of `group`, if it is in one.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    image: Image,
    settings: Settings,
    group: Option<Group>,
) -> Result<(), ServeError> {
    serve(entry, || Ok(image.into_device(settings)?.within(group)))
}

#[cfg(test)]
mod tests;
