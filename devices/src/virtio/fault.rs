//! What goes wrong between guest, transport and device process, by who is at fault.
//!
//! The distinction decides what follows: a guest's fault is answered to the guest (DEVICE_NEEDS_RESET) and to nobody
//! else; a device process at fault is replaced; a fault of ours is reported.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// One of a queue's three areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The descriptor table.
    Descriptors,
    /// The available ring, which the driver writes.
    Available,
    /// The used ring, which the device writes.
    Used,
}

/// What the guest did wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GuestFault {
    /// A ring's address is not aligned (virtio 1.2, §2.7).
    #[error("queue {queue}: the {ring:?} area at {address:#x} is not aligned to {alignment} bytes")]
    Unaligned {
        /// The queue's index.
        queue: u16,
        /// Which area.
        ring: Ring,
        /// Where the guest put it.
        address: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A ring is not wholly within one region of RAM.
    #[error("queue {queue}: the {ring:?} area of {size} bytes at {address:#x} is not in RAM")]
    OutsideMemory {
        /// The queue's index.
        queue: u16,
        /// Which area.
        ring: Ring,
        /// Where the guest put it.
        address: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The driver takes a feature that was not offered, or not VERSION_1.
    #[error("the driver wants features {wanted:#x} of {offered:#x}")]
    Features {
        /// What the driver wrote.
        wanted: u64,
        /// What it was offered.
        offered: u64,
    },
}

/// What the device process did wrong.
#[derive(Debug, Error)]
pub enum DeviceFault {
    /// It is dead, or has closed its socket.
    #[error("the device process is gone")]
    Gone,
    /// It has not answered in time, and was cut off.
    #[error("the device process did not answer {request} within {limit:?}")]
    Silent {
        /// What it was asked.
        request: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// It answered what it may not.
    #[error("the device process answered {request} wrongly")]
    Protocol {
        /// What it was asked.
        request: &'static str,
        /// What was wrong.
        source: vhost::Error,
    },
    /// It said no.
    #[error("the device process refused {request}")]
    Refused {
        /// What it was asked.
        request: &'static str,
    },
    /// It cannot do what we cannot do without.
    #[error("the device process lacks {0}")]
    Lacks(&'static str),
}

/// Why a device does not run as it should.
#[derive(Debug, Error)]
pub enum Fault {
    /// The guest is at fault.
    #[error("the guest set the device up wrongly")]
    Guest(#[from] GuestFault),
    /// The device process is at fault.
    #[error("the device's back end failed")]
    Device(#[from] DeviceFault),
    /// We are at fault, or the host has run out of something.
    #[error("the host could not {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
