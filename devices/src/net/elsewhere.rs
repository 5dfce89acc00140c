//! What a guest is offered of an interface that another program serves: its packets, and no queue of commands.
//!
//! Some programs serve that queue themselves, some leave it to the monitor, and nothing tells which. So there is none, and
//! nothing that is asked for by it; who the guest is, and how long its packets may be, it reads from the configuration.

use super::spec::{
    CONFIG_SIZE, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4,
    F_GUEST_TSO6, F_GUEST_UFO, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_MAC, F_MQ, F_MTU,
    F_STATUS,
};

/// More bits of §5.1.3 that take a queue of commands, or a longer configuration.
const F_CTRL_RX: u64 = 1 << 18;
const F_CTRL_VLAN: u64 = 1 << 19;
const F_GUEST_ANNOUNCE: u64 = 1 << 21;
const F_CTRL_MAC_ADDR: u64 = 1 << 23;
const F_DEVICE_STATS: u64 = 1 << 50;
const F_VQ_NOTF_COAL: u64 = 1 << 52;
const F_NOTF_COAL: u64 = 1 << 53;
const F_HASH_REPORT: u64 = 1 << 57;
const F_RSS: u64 = 1 << 60;
const F_RSC_EXT: u64 = 1 << 61;
const F_STANDBY: u64 = 1 << 62;
const F_SPEED_DUPLEX: u64 = 1 << 63;

const COMMANDS: u64 = F_CTRL_VQ
    | F_CTRL_GUEST_OFFLOADS
    | F_CTRL_RX
    | F_CTRL_VLAN
    | F_GUEST_ANNOUNCE
    | F_CTRL_MAC_ADDR
    | F_MQ
    | F_DEVICE_STATS
    | F_VQ_NOTF_COAL
    | F_NOTF_COAL
    | F_HASH_REPORT
    | F_RSS;
const UNTOLD: u64 = F_STATUS | F_RSC_EXT | F_STANDBY | F_SPEED_DUPLEX | F_MAC | F_MTU;

/// What the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The configuration.
    pub config: [u8; CONFIG_SIZE],
    /// Features of the program that the guest is not offered.
    pub withheld: u64,
    /// Features that it is offered because of the configuration.
    pub ours: u64,
}

/// The offer to a guest with this address; `offloads`: whether checksums, TCP segmentation and UDP fragmentation may be left
/// to the other side.
#[must_use]
pub fn elsewhere(mac: [u8; 6], mtu: Option<u16>, offloads: [bool; 3]) -> Offer {
    let mut config = [0; CONFIG_SIZE];
    config[..6].copy_from_slice(&mac);
    config[10..].copy_from_slice(&mtu.unwrap_or_default().to_le_bytes());
    let groups = [
        F_CSUM | F_GUEST_CSUM,
        F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN,
        F_GUEST_UFO | F_HOST_UFO,
    ];
    let unwanted = groups.into_iter().zip(offloads).filter(|(_, wanted)| !wanted);
    let withheld = unwanted.fold(COMMANDS | UNTOLD, |all, (group, _)| all | group);
    Offer { config, withheld, ours: F_MAC | if mtu.is_some() { F_MTU } else { 0 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_its_address_and_no_queue_of_commands() {
        let offer = elsewhere([2, 0, 0, 0, 0, 1], Some(1400), [true, false, true]);
        assert_eq!(offer.config, [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x78, 5]);
        assert_eq!(offer.ours, F_MAC | F_MTU);
        assert_eq!(offer.withheld & (F_CTRL_VQ | F_MQ | F_HOST_TSO4), F_CTRL_VQ | F_MQ | F_HOST_TSO4);
        assert_eq!(offer.withheld & (F_CSUM | F_HOST_UFO), 0);
        assert_eq!(elsewhere([2; 6], None, [true; 3]).ours, F_MAC);
    }
}
