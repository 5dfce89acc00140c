//! `device_tree` in `vm.info`, and what a hot-added device became.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Device id → node.
pub type DeviceTree = BTreeMap<String, DeviceNode>;

/// One device: a PCI function, or the virtio device behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceNode {
    /// Its id: `_disk0`, or `_virtio-pci-_disk0` for the function that it is behind.
    pub id: String,
    /// What it occupies of the guest's address space.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// Ids of the devices behind it.
    #[serde(default)]
    pub children: Vec<String>,
    /// Segment, bus, device and function, such as `0000:00:01.0`; functions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_bdf: Option<String>,
}

/// What a device occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Resource {
    /// A BAR of a PCI function.
    PciBar(PciBar),
    /// A range of guest addresses.
    MmioAddressRange {
        /// First address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// A wired interrupt (INTID).
    LegacyIrq(u32),
}

/// A BAR of a PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PciBar {
    /// Which of the six.
    pub index: u32,
    /// First guest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// `Mmio32` or `Mmio64`.
    pub type_: String,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

/// What a hot-added device became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PciDeviceInfo {
    /// Its id, to remove it by.
    pub id: String,
    /// Segment, bus, device and function, such as `0000:00:05.0`.
    pub bdf: String,
}
