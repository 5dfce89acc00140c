//! `rng`, `balloon` and `rtc`: small virtio devices of which a VM has one at most.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, rng_source};

/// The entropy device; every VM has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RngConfig {
    /// Where the entropy comes from.
    #[serde(default = "rng_source::value", deserialize_with = "rng_source::deserialize")]
    pub src: PathBuf,
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

impl Default for RngConfig {
    fn default() -> Self {
        Self { src: rng_source::value(), iommu: false, id: None, pci_segment: 0, pci_device_id: None }
    }
}

/// A device through which the guest gives memory back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BalloonConfig {
    /// Bytes that the guest is asked to give back.
    pub size: u64,
    /// Whether the guest takes memory back rather than kill a process.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub deflate_on_oom: bool,
    /// Whether the guest reports pages that it does not use.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub free_page_reporting: bool,
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

/// A virtio clock (the PL031 is always there).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RtcConfig {
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
