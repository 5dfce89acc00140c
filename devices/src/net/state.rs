//! What the device is made of, and what it remembers.

use std::os::fd::OwnedFd;

use super::spec::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_HOST_ECN, F_HOST_TSO4,
    F_HOST_TSO6, F_HOST_UFO, TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO,
};
use crate::rate::LimiterSettings;

/// A network device as it is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The guest's address.
    pub mac: [u8; 6],
    /// Largest packet that the guest is told to send.
    pub mtu: Option<u16>,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// What is left to the other side, of what the taps can do.
    pub offloads: Offloads,
    /// Limits, for each direction.
    pub limits: LimiterSettings,
}

/// What of a packet's preparation is left to whoever passes it on last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums.
    pub checksum: bool,
    /// Segmentation of TCP.
    pub segmentation: bool,
    /// Fragmentation of UDP.
    pub fragmentation: bool,
    /// What the taps take: bits of `TUNSETOFFLOAD`.
    pub taps: u32,
}

impl Offloads {
    /// The feature bits that come of it, for both directions.
    pub(super) fn features(self) -> u64 {
        let has = |bit| self.taps & bit != 0;
        let mut features = 0;
        if self.checksum && has(TUN_F_CSUM) {
            features |= F_CSUM | F_GUEST_CSUM;
            if self.segmentation && has(TUN_F_TSO4) {
                features |= F_HOST_TSO4 | F_GUEST_TSO4;
            }
            if self.segmentation && has(TUN_F_TSO6) {
                features |= F_HOST_TSO6 | F_GUEST_TSO6;
            }
            if self.segmentation && has(TUN_F_TSO_ECN) {
                features |= F_HOST_ECN | F_GUEST_ECN;
            }
            if self.fragmentation && has(TUN_F_UFO) {
                features |= F_HOST_UFO | F_GUEST_UFO;
            }
        }
        features
    }
}

/// The bits of `TUNSETOFFLOAD` for what the guest has accepted.
pub(super) fn tap_offloads(accepted: u64) -> u32 {
    let pairs = [
        (F_GUEST_CSUM, TUN_F_CSUM),
        (F_GUEST_TSO4, TUN_F_TSO4),
        (F_GUEST_TSO6, TUN_F_TSO6),
        (F_GUEST_ECN, TUN_F_TSO_ECN),
        (F_GUEST_UFO, TUN_F_UFO),
    ];
    if accepted & F_GUEST_CSUM == 0 {
        // Whoever computes checksums itself gets no large packets either, whatever it says (§5.1.3.1).
        return 0;
    }
    pairs.iter().filter(|(feature, _)| accepted & feature != 0).map(|(_, bit)| bit).sum()
}

/// The host's side: a tap for each pair of queues. They do not block, and put a header of 12 bytes before each packet.
#[derive(Debug)]
pub struct Taps(pub Vec<OwnedFd>);

/// What a successor has to know: how many pairs are in use, and what the guest wants to be spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub pairs: u16,
    pub offloads: u64,
}

impl Memory {
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.pairs.to_le_bytes()[..], &self.offloads.to_le_bytes()].concat()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pairs, offloads) = bytes.split_at_checked(2)?;
        let (pairs, offloads) = (pairs.try_into().ok()?, offloads.try_into().ok()?);
        Some(Self { pairs: u16::from_le_bytes(pairs), offloads: u64::from_le_bytes(offloads) })
    }
}
