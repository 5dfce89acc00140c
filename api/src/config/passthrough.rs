//! `devices`, `user_devices` and `vdpa`: devices that come from outside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, one_queue};
use super::list;

/// A VFIO device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceConfig {
    /// Its directory in sysfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the device is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// The group of NVIDIA GPUs that may talk to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_nv_gpudirect_clique: Option<u8>,
    /// BARs that are not mapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub x_exclude_mmap_bars: Vec<u64>,
}

/// A device served by a vfio-user process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UserDeviceConfig {
    /// The socket of that process.
    pub socket: PathBuf,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

/// A vDPA device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VdpaConfig {
    /// Its device node.
    pub path: PathBuf,
    /// Queues.
    #[serde(default = "one_queue::value", deserialize_with = "one_queue::deserialize")]
    pub num_queues: usize,
    /// Whether the device is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}
