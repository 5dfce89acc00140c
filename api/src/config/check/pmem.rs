//! `pmem`: images that the guest maps.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::machine;
use super::places::{PciPlace, place};
use crate::config::PmemConfig;

/// How many a VM may have: each is a memory region of every device, of which an old vhost-user server takes eight.
const MOST: usize = 7;

/// An image, checked as far as can be told without opening it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pmem {
    /// The file; not empty.
    pub file: PathBuf,
    /// Bytes of it; all where none are given.
    pub size: Option<u64>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether what the guest writes stays with the guest.
    pub discard_writes: bool,
    /// Where on the PCI buses it is wanted.
    pub place: PciPlace,
}

pub(super) fn check(raw: &[PmemConfig], segments: u16) -> Result<Vec<Pmem>, ConfigError> {
    if raw.len() > MOST {
        let fault = Fault::OutOfRange { value: raw.len() as u64, min: 0, max: MOST as u64 };
        return Err(ConfigError::new("pmem", fault));
    }
    raw.iter().enumerate().map(|(index, raw)| check_one(&format!("pmem[{index}]"), raw, segments)).collect()
}

fn check_one(field: &str, raw: &PmemConfig, segments: u16) -> Result<Pmem, ConfigError> {
    let at_fault = |key: &str, fault| Err(ConfigError::new(format!("{field}.{key}"), fault));
    if raw.iommu {
        return at_fault("iommu", Fault::Unsupported("a virtual IOMMU is not supported"));
    }
    if raw.readonly && raw.discard_writes {
        let text = "a guest that may not write has no writes to discard".to_owned();
        return at_fault("discard_writes", Fault::Contradiction(text));
    }
    Ok(Pmem {
        file: machine::path(&format!("{field}.file"), &raw.file)?,
        size: raw.size,
        read_only: raw.readonly,
        discard_writes: raw.discard_writes,
        place: place(field, raw.pci_segment, raw.pci_device_id, segments)?,
    })
}
