//! What the device is made of. There is nothing to save: connections do not outlive their process, and the guest is told.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use thiserror::Error;

use super::spec::{MAX_GUEST_CID, MIN_GUEST_CID};

/// A guest's context id, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCid(u64);

/// A number that cannot be a guest's context id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is not in {MIN_GUEST_CID}..={MAX_GUEST_CID}")]
pub struct BadCid(u64);

impl TryFrom<u64> for GuestCid {
    type Error = BadCid;

    fn try_from(number: u64) -> Result<Self, BadCid> {
        let fits = (MIN_GUEST_CID..=MAX_GUEST_CID).contains(&number);
        if fits { Ok(Self(number)) } else { Err(BadCid(number)) }
    }
}

impl From<GuestCid> for u64 {
    fn from(cid: GuestCid) -> Self {
        cid.0
    }
}

/// The host's side of the device, opened by whoever started the process.
#[derive(Debug)]
pub struct HostSide {
    /// Where clients connect; it does not block.
    pub listener: UnixListener,
    /// Who connects to the host for the guest (`broker`); without one the guest can connect to nothing.
    pub broker: Option<OwnedFd>,
}
