//! `disks`: virtio-blk devices, in the order of `/dev/vda`, `/dev/vdb`, ….

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, disk_queue_size, one_queue, yes};
use super::list;
use super::rate::RateLimiterConfig;

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DiskConfig {
    /// The image or block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the guest may only read.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub readonly: bool,
    /// Whether the host's page cache is bypassed.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub direct: bool,
    /// Whether the disk is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Queues.
    #[serde(default = "one_queue::value", deserialize_with = "one_queue::deserialize")]
    pub num_queues: usize,
    /// Descriptors of each queue.
    #[serde(default = "disk_queue_size::value", deserialize_with = "disk_queue_size::deserialize")]
    pub queue_size: u16,
    /// Whether somebody else serves the disk over vhost-user.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub vhost_user: bool,
    /// The socket of that vhost-user server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<PathBuf>,
    /// The limit of this disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// The limit that it shares with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Accepted and echoed: the disk process chooses its own way to do I/O.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub disable_io_uring: bool,
    /// Accepted and echoed: the disk process chooses its own way to do I/O.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub disable_aio: bool,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// Serial number that the guest reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Host CPUs of each queue's thread.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub queue_affinity: Vec<QueueAffinity>,
    /// Whether an image may name other files that it is built on.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub backing_files: bool,
    /// Whether discarded blocks are given back to the host.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub sparse: bool,
    /// Format of the image; `Unknown` is found out by looking.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub image_type: ImageType,
    /// What is locked of the file.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub lock_granularity: LockGranularity,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            path: None,
            readonly: false,
            direct: false,
            iommu: false,
            num_queues: one_queue::value(),
            queue_size: disk_queue_size::value(),
            vhost_user: false,
            vhost_socket: None,
            rate_limiter_config: None,
            rate_limit_group: None,
            id: None,
            disable_io_uring: false,
            disable_aio: false,
            pci_segment: 0,
            pci_device_id: None,
            serial: None,
            queue_affinity: Vec::new(),
            backing_files: false,
            sparse: yes::value(),
            image_type: ImageType::default(),
            lock_granularity: LockGranularity::default(),
        }
    }
}

/// Format of a disk image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ImageType {
    /// VHD of a fixed size.
    FixedVhd,
    /// QEMU's format.
    Qcow2,
    /// The bytes of the disk.
    Raw,
    /// Hyper-V's format.
    Vhdx,
    /// To be found out.
    #[default]
    Unknown,
}

/// What is locked of a disk's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum LockGranularity {
    /// The bytes that the disk has.
    #[default]
    ByteRange,
    /// The whole file.
    Full,
}

/// Host CPUs of one queue's thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "VirtQueueAffinity"))]
pub struct QueueAffinity {
    /// Index of the queue.
    pub queue_index: u16,
    /// Host CPU numbers.
    #[serde(deserialize_with = "list::bounded")]
    pub host_cpus: Vec<usize>,
}
