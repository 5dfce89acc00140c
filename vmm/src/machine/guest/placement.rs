//! Where on the PCI buses a device goes: the one place that decides it.
//!
//! | device | place | why |
//! |---|---|---|
//! | there at boot | the root bus, first free device number from 01 on, or the one asked for | what clients know of Cloud Hypervisor; container runtimes look for disks there |
//! | added to a running guest | behind the first root port with an empty slot | the only place that a guest by device tree watches: on the root bus it looks once, at boot |
//! | restored | where it was | addresses in the guest's memory name it |
//!
//! docs/hotplug.md says what follows for clients that know bus 00 only.

use granule_devices::pci::{InsertError, PciSegment};

use crate::wire::DeviceSpec;

/// Root ports of segment 0, and of each other segment.
///
/// Each costs the guest some 230 accesses to configuration space at boot: well below a millisecond where an access leaves
/// the guest for 3 µs, 6 ms in the lab, where it takes 26. Segment 0 has room for as many disks as a pod is likely to add;
/// the others are there for shared directories and the like, one or two each.
const PORTS: [u8; 2] = [8, 2];

/// Where a device is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// On the root bus, at this device number if one is given.
    RootBus(Option<u8>),
    /// Behind the port with this home bus, or any with an empty slot.
    Port(Option<u8>),
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the root bus, at this device number.
    RootBus(u8),
    /// Behind the port with this home bus.
    Port(u8),
}

/// How many root ports a segment has.
pub fn ports(segment: u16) -> u8 {
    if segment == 0 { PORTS[0] } else { PORTS[1] }
}

/// Where a device goes that is there before the guest runs.
pub fn cold(spec: &DeviceSpec) -> Wanted {
    match spec.port {
        Some(home) => Wanted::Port(Some(home)),
        None => Wanted::RootBus(spec.slot),
    }
}

/// Where a device goes that comes while the guest runs.
pub fn hot() -> Wanted {
    Wanted::Port(None)
}

/// Finds the place.
pub fn choose(segment: &PciSegment, wanted: Wanted) -> Result<Place, InsertError> {
    match wanted {
        Wanted::RootBus(slot) => slot.map_or_else(|| segment.free_slot(), Ok).map(Place::RootBus),
        Wanted::Port(home) => home.map_or_else(|| segment.free_port(), Ok).map(Place::Port),
    }
}
