//! `balloon`: memory that the guest gives back.

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::places::{PciPlace, place};
use crate::config::BalloonConfig;

/// A balloon, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// Bytes that the guest is asked to give back, fewer than it has.
    pub size: u64,
    /// Whether the guest takes memory back rather than kill a process.
    pub deflate_on_oom: bool,
    /// Whether the guest reports pages that are free.
    pub free_page_reporting: bool,
    /// Where on the PCI buses it is wanted.
    pub place: PciPlace,
}

pub(super) fn check(raw: &BalloonConfig, memory: u64, segments: u16) -> Result<Balloon, ConfigError> {
    if raw.iommu {
        let fault = Fault::Unsupported("a virtual IOMMU is not supported");
        return Err(ConfigError::new("balloon.iommu", fault));
    }
    if raw.size > memory {
        let fault = Fault::TooMuch { value: raw.size, what: "memory.size", limit: memory };
        return Err(ConfigError::new("balloon.size", fault));
    }
    Ok(Balloon {
        size: raw.size,
        deflate_on_oom: raw.deflate_on_oom,
        free_page_reporting: raw.free_page_reporting,
        place: place("balloon", raw.pci_segment, raw.pci_device_id, segments)?,
    })
}
