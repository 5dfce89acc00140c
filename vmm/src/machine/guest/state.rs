//! What a machine remembers, component by component, and who takes it back.
//!
//! | kind | id | payload |
//! |---|---|---|
//! | `machine` | | [`Shape`]: what must be the same for the rest to fit |
//! | `vcpu` | 0, 1, … | registers, power, pending exceptions |
//! | `gic`, `its` | | registers (tables are in memory) |
//! | `pl011`, `pl031`, `pl061` | | registers |
//! | `pci-segment` | 0, 1, … | host bridge and root ports |
//! | `virtio` | the device's id | where it is, function, transport, queues, what its process keeps |
//!
//! All of version 1.

use granule_arch::kvm::CpuFeatures;
use granule_devices::virtio::VirtioState;
use serde::{Deserialize, Serialize};

use super::placement::Place;
use crate::wire::{BootSpec, Contents, SerialSpec};

/// The version of every component here.
pub const VERSION: u32 = 1;

pub const MACHINE: &str = "machine";
pub const VCPU: &str = "vcpu";
pub const GIC: &str = "gic";
pub const ITS: &str = "its";
pub const UART: &str = "pl011";
pub const CLOCK: &str = "pl031";
pub const GPIO: &str = "pl061";
pub const SEGMENT: &str = "pci-segment";
pub const VIRTIO: &str = "virtio";

/// What a machine is like, as far as its state depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub vcpus: u8,
    pub memory_bytes: u64,
    /// What may be plugged; snapshots from before there was such a thing have none.
    #[serde(default)]
    pub hotplug_bytes: u64,
    pub pci_segments: u16,
    pub serial: bool,
    /// Bits of guest physical address.
    pub ipa_bits: u8,
    /// What vCPUs have beyond the base architecture.
    pub features: CpuFeatures,
    /// `ID_AA64PFR1_EL1.MTE` as the guest reads it; 0 without tags.
    pub mte_level: u8,
}

impl Shape {
    /// What a specification says of it; the rest is as of nothing.
    pub fn of(spec: &BootSpec) -> Self {
        Self {
            vcpus: spec.cpus.count,
            memory_bytes: spec.memory_bytes,
            hotplug_bytes: spec.hotplug_bytes,
            pci_segments: spec.pci_segments,
            serial: spec.serial != SerialSpec::Off,
            ipa_bits: 0,
            features: CpuFeatures { sve: false, pointer_auth: false, pmu: false },
            mte_level: 0,
        }
    }

    /// The first field of a configuration by which it is another machine than the saved one.
    pub fn difference(&self, spec: &BootSpec) -> Option<&'static str> {
        let wanted = Self::of(spec);
        let differences = [
            (self.vcpus != wanted.vcpus, "cpus.boot_vcpus"),
            (self.memory_bytes != wanted.memory_bytes, "memory.size"),
            (self.hotplug_bytes != wanted.hotplug_bytes, "memory.hotplug_size"),
            (self.pci_segments != wanted.pci_segments, "platform.num_pci_segments"),
            (self.serial != wanted.serial, "serial.mode"),
            ((self.mte_level > 0) != spec.mte, "cpus.features.mte"),
        ];
        differences.into_iter().find(|(differ, _)| *differ).map(|(_, field)| field)
    }
}

/// A virtio device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceState {
    pub segment: u16,
    /// On the root bus; null behind a port.
    pub slot: Option<u8>,
    /// The port; null on the root bus.
    pub port: Option<u8>,
    pub virtio: VirtioState,
    /// Memory that it brings along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<RegionState>,
}

/// Memory of a device in the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionState {
    pub gpa: u64,
    pub size: u64,
    pub read_only: bool,
    pub contents: Contents,
}

impl RegionState {
    /// In what this, as it was saved, is another than here.
    pub fn difference(&self, here: &Self) -> Option<&'static str> {
        let own = |of: &Self| of.contents == Contents::Own;
        let differences = [
            (self.size != here.size, "its size"),
            (self.gpa != here.gpa, "its place in memory"),
            (self.read_only != here.read_only, "readonly"),
            (own(self) != own(here), "discard_writes"),
            (self.contents != here.contents, "the time at which its image was modified last"),
        ];
        differences.into_iter().find(|(differ, _)| *differ).map(|(_, what)| what)
    }
}

impl DeviceState {
    /// A device that is there.
    pub fn new(segment: u16, place: Place, virtio: VirtioState, memory: Option<RegionState>) -> Self {
        let (slot, port) = match place {
            Place::RootBus(slot) => (Some(slot), None),
            Place::Port(home) => (None, Some(home)),
        };
        Self { segment, slot, port, virtio, memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_device_is_the_same_or_differs_by_name() {
        let fixed =
            RegionState { gpa: 1 << 32, size: 2 << 20, read_only: true, contents: Contents::FileOf(7, 1) };
        assert_eq!(fixed.difference(&fixed), None);
        let here = |change: fn(&mut RegionState)| {
            let mut here = fixed;
            change(&mut here);
            fixed.difference(&here)
        };
        assert_eq!(here(|here| here.size += 2 << 20), Some("its size"));
        assert_eq!(here(|here| here.gpa += 1 << 30), Some("its place in memory"));
        assert_eq!(here(|here| here.read_only = false), Some("readonly"));
        assert_eq!(here(|here| here.contents = Contents::Own), Some("discard_writes"));
        let modified = here(|here| here.contents = Contents::FileOf(8, 1));
        assert_eq!(modified, Some("the time at which its image was modified last"));
    }
}
