//! Disks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::groups;
use super::machine::{path, socket_path};
use super::places::{PciPlace, place};
use crate::config::{DiskConfig, ImageType, LockGranularity, RateLimitGroupConfig, RateLimiterConfig};

/// The most queues of a disk; each has an interrupt of its own.
const MAX_QUEUES: u64 = 16;
/// A request is a header, data and a status, and a ring has a power of two.
const MIN_QUEUE_SIZE: u64 = 4;
/// The most that a virtqueue may have.
const MAX_QUEUE_SIZE: u64 = 1 << 15;
/// Bytes of a serial number.
const MAX_SERIAL: usize = 20;

/// A disk with an image of ours, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name that it was given, if it was.
    pub id: Option<String>,
    /// The image; not empty, unless another program serves the disk.
    pub path: PathBuf,
    /// The socket of the program that serves it, if one does.
    pub served_at: Option<PathBuf>,
    /// Format of the image, one that is supported.
    pub image_type: ImageType,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Whether discarded blocks are given back.
    pub sparse: bool,
    /// What is locked of the image.
    pub lock: LockGranularity,
    /// Queues, 1 to 16.
    pub queues: u16,
    /// Descriptors of each, a power of two.
    pub queue_size: u16,
    /// The serial number, if it is given one; at most 20 bytes.
    pub serial: Option<String>,
    /// How much may be moved.
    pub limits: RateLimiterConfig,
    /// The group that it shares these limits with, if it is in one.
    #[serde(default)]
    pub group: Option<String>,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Checks a disk; `name` is the path of its object in the request.
pub fn disk(
    name: &str,
    raw: &DiskConfig,
    groups: &[RateLimitGroupConfig],
    segments: u16,
) -> Result<Disk, ConfigError> {
    let at_fault = |key: &str, fault| ConfigError::new(format!("{name}.{key}"), fault);
    refuse_unsupported(name, raw)?;
    let served_at = served_at(name, raw)?;
    let image = match (raw.path.as_deref(), &served_at) {
        (Some(image), None) => path(&format!("{name}.path"), image)?,
        (None, Some(_)) => PathBuf::new(),
        (None, None) => return Err(at_fault("path", Fault::Missing("a disk needs an image"))),
        (Some(_), Some(_)) => {
            let text = "the program at vhost_socket knows its image, and is not told".to_owned();
            return Err(at_fault("path", Fault::Contradiction(text)));
        }
    };
    let queues = raw.num_queues as u64;
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(at_fault("num_queues", Fault::OutOfRange { value: queues, min: 1, max: MAX_QUEUES }));
    }
    let size = u64::from(raw.queue_size);
    if !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
        let fault = Fault::OutOfRange { value: size, min: MIN_QUEUE_SIZE, max: MAX_QUEUE_SIZE };
        return Err(at_fault("queue_size", fault));
    }
    if !size.is_power_of_two() {
        return Err(at_fault("queue_size", Fault::Contradiction(format!("{size} is not a power of two"))));
    }
    Ok(Disk {
        id: raw.id.clone(),
        path: image,
        served_at,
        image_type: raw.image_type,
        readonly: raw.readonly,
        direct: raw.direct,
        sparse: raw.sparse,
        lock: raw.lock_granularity,
        // Cannot truncate: 16 at the most.
        queues: queues as u16,
        queue_size: raw.queue_size,
        serial: serial(name, raw)?,
        limits: groups::limits(name, raw, groups)?,
        group: raw.rate_limit_group.clone(),
        place: place(name, raw.pci_segment, raw.pci_device_id, segments)?,
    })
}

/// Where the program that serves the disk is found.
fn served_at(name: &str, raw: &DiskConfig) -> Result<Option<PathBuf>, ConfigError> {
    let at = format!("{name}.vhost_socket");
    match (&raw.vhost_socket, raw.vhost_user) {
        (None, false) => Ok(None),
        (Some(socket), true) => socket_path(&at, socket).map(Some),
        (None, true) => {
            Err(ConfigError::new(at, Fault::Missing("a disk of another program needs its socket")))
        }
        (Some(_), false) => Err(ConfigError::new(at, Fault::Contradiction("vhost_user is false".into()))),
    }
}

fn serial(name: &str, raw: &DiskConfig) -> Result<Option<String>, ConfigError> {
    let Some(serial) = &raw.serial else { return Ok(None) };
    let fault = if serial.contains('\0') {
        Fault::Nul
    } else if serial.len() > MAX_SERIAL {
        Fault::TooLong { length: serial.len(), what: "a virtio disk", max: MAX_SERIAL }
    } else {
        return Ok(Some(serial.clone()));
    };
    Err(ConfigError::new(format!("{name}.serial"), fault))
}

fn refuse_unsupported(name: &str, raw: &DiskConfig) -> Result<(), ConfigError> {
    let foreign = matches!(raw.image_type, ImageType::FixedVhd | ImageType::Vhdx);
    let refusals = [
        ("backing_files", raw.backing_files, "an image that is built on other files is not supported"),
        ("iommu", raw.iommu, "a virtual IOMMU is not supported"),
        (
            "image_type",
            foreign,
            "only raw and qcow2 images are supported; convert it, for example with qemu-img",
        ),
        ("queue_affinity", !raw.queue_affinity.is_empty(), "one thread serves all queues of a disk"),
    ];
    match refusals.into_iter().find(|(_, asked, _)| *asked) {
        Some((key, _, reason)) => Err(ConfigError::new(format!("{name}.{key}"), Fault::Unsupported(reason))),
        None => Ok(()),
    }
}
