//! What a guest needs that runs before its memory is there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use granule_devices::userfault::Userfault;
use rustix::fs::{Mode, OFlags};

use super::{Layers, Mover};

const DEVICE: &str = "/dev/userfaultfd";

/// Why no guest can.
#[derive(Debug, thiserror::Error)]
pub enum OnDemandError {
    /// The device cannot be opened.
    #[error(
        "{DEVICE} cannot be opened, and the page faults of guests cannot be waited for without it; let this user open it, or \
         restore with memory_restore_mode: Copy"
    )]
    Open(#[source] io::Error),
    /// It makes no userfaultfd.
    #[error("{DEVICE} gives no userfaultfd")]
    Make(#[source] io::Error),
    /// The kernel is too old.
    #[error("this kernel cannot report missing and unmapped pages of shared memory")]
    Features(#[source] io::Error),
}

/// Opens `/dev/userfaultfd` and sees whether the kernel can do what it takes.
pub fn open() -> Result<OwnedFd, OnDemandError> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = device.map_err(|error| OnDemandError::Open(error.into()))?;
    let userfault = Userfault::of(device.as_fd()).map_err(OnDemandError::Make)?;
    userfault.agree().map_err(OnDemandError::Features)?;
    Ok(device)
}

/// What a mover that places pages is started with, once all are there who will announce what they map.
#[derive(Debug)]
pub struct Placing {
    /// The snapshot's memory.
    pub layers: Layers,
    /// The mover's end of its socket to the machine.
    pub machine: OwnedFd,
    /// The id under which it is started.
    pub id: u32,
}

/// The memory of a guest that was restored on demand.
#[derive(Debug)]
pub struct Fill {
    /// At work until all of it is there.
    pub mover: Option<Mover>,
    /// Pages that were looked at.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Pages that somebody waited for.
    pub faults: u64,
    /// Nobody wants it any more.
    pub ending: bool,
    /// Why it never was all there.
    pub lost: Option<String>,
}

impl Fill {
    /// The mover has begun.
    pub fn begun(mover: Mover) -> Self {
        Self { mover: Some(mover), done: 0, of: 0, faults: 0, ending: false, lost: None }
    }
}
