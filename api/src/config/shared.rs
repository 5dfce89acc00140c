//! `fs`, `generic_vhost_user`, `pmem` and `vsock`: what a VM shares with processes and files of the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, fs_queue_size, one_queue};
use super::list;

/// A directory of the host, served by a virtiofsd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FsConfig {
    /// Name under which the guest mounts it.
    pub tag: String,
    /// The vhost-user socket of the server.
    pub socket: PathBuf,
    /// Request queues.
    #[serde(default = "one_queue::value", deserialize_with = "one_queue::deserialize")]
    pub num_queues: usize,
    /// Descriptors of each queue.
    #[serde(default = "fs_queue_size::value", deserialize_with = "fs_queue_size::deserialize")]
    pub queue_size: u16,
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

/// Any virtio device that a vhost-user server implements whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GenericVhostUserConfig {
    /// The socket of the server.
    pub socket: PathBuf,
    /// Descriptors of each queue; as many queues as numbers.
    #[serde(deserialize_with = "list::bounded")]
    pub queue_sizes: Vec<u16>,
    /// Virtio device type.
    pub device_type: u32,
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

/// A file of the host that the guest maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PmemConfig {
    /// The file.
    pub file: PathBuf,
    /// Bytes; the file's own size where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether the device is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Whether the guest's writes stay with the guest.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub discard_writes: bool,
    /// Whether the guest may only read; not in Cloud Hypervisor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "defaults::or_default")]
    pub readonly: bool,
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

/// Sockets between guest and host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub cid: u64,
    /// The Unix socket that host programs connect to.
    pub socket: PathBuf,
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
