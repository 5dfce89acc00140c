//! PCI segments and slots, and the names of devices.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::Limits;
use super::error::{ConfigError, Fault};
use crate::config::VmConfig;

/// Where on the PCI buses a device is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciPlace {
    /// The segment; there is one of that number.
    pub segment: u16,
    /// The slot, 1 to 31; the first free one where none is given.
    pub slot: Option<u8>,
}

pub(super) fn segments(config: &VmConfig, limits: &Limits) -> Result<u16, ConfigError> {
    let segments = config.platform.as_ref().map_or(1, |platform| platform.num_pci_segments);
    if (1..=limits.max_pci_segments).contains(&segments) {
        return Ok(segments);
    }
    let fault = Fault::OutOfRange { value: segments.into(), min: 1, max: limits.max_pci_segments.into() };
    Err(ConfigError::new("platform.num_pci_segments", fault))
}

pub(super) fn place(
    device: &str,
    segment: u16,
    slot: Option<u8>,
    segments: u16,
) -> Result<PciPlace, ConfigError> {
    let at_fault = |key: &str, value: u64, min: u64, max: u64| {
        ConfigError::new(format!("{device}.{key}"), Fault::OutOfRange { value, min, max })
    };
    if segment >= segments {
        return Err(at_fault("pci_segment", segment.into(), 0, u64::from(segments) - 1));
    }
    match slot {
        Some(slot) if !(1..=31).contains(&slot) => Err(at_fault("pci_device_id", slot.into(), 1, 31)),
        _ => Ok(PciPlace { segment, slot }),
    }
}

/// Refuses two devices of one name, and names that are left for devices that were given none.
pub(super) fn unique_ids(config: &VmConfig) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for (field, id) in named(config) {
        if id.is_empty() {
            return Err(ConfigError::new(field, Fault::Empty));
        }
        match seen.entry(id) {
            Entry::Vacant(free) => {
                free.insert(field);
            }
            Entry::Occupied(taken) => {
                let fault = Fault::Duplicate { name: id.to_owned(), other: taken.get().clone() };
                return Err(ConfigError::new(field, fault));
            }
        }
    }
    Ok(())
}

/// The names that devices of `config` were given.
pub fn names(config: &VmConfig) -> impl Iterator<Item = &str> {
    named(config).into_iter().map(|(_, id)| id)
}

/// Every device that was given a name: the path of the field, and the name.
fn named(config: &VmConfig) -> Vec<(String, &str)> {
    let single = [
        ("rng.id", config.rng.id.as_deref()),
        ("console.id", config.console.id.as_deref()),
        ("balloon.id", config.balloon.as_ref().and_then(|device| device.id.as_deref())),
        ("vsock.id", config.vsock.as_ref().and_then(|device| device.id.as_deref())),
        ("rtc.id", config.rtc.as_ref().and_then(|device| device.id.as_deref())),
    ];
    let mut names: Vec<(String, &str)> =
        single.into_iter().filter_map(|(field, id)| Some((field.to_owned(), id?))).collect();
    names.extend(listed("disks", &config.disks, |device| &device.id));
    names.extend(listed("net", &config.net, |device| &device.id));
    names.extend(listed("fs", &config.fs, |device| &device.id));
    names.extend(listed("pmem", &config.pmem, |device| &device.id));
    names.extend(listed("generic_vhost_user", &config.generic_vhost_user, |device| &device.id));
    names.extend(listed("devices", &config.devices, |device| &device.id));
    names.extend(listed("user_devices", &config.user_devices, |device| &device.id));
    names.extend(listed("vdpa", &config.vdpa, |device| &device.id));
    names
}

fn listed<'a, T>(
    key: &'static str,
    devices: &'a [T],
    id: fn(&'a T) -> &'a Option<String>,
) -> impl Iterator<Item = (String, &'a str)> {
    let ids = devices.iter().map(id).enumerate();
    ids.filter_map(move |(index, id)| Some((format!("{key}[{index}].id"), id.as_deref()?)))
}
