//! `memory`: size, backing and zones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, yes};
use super::list;

/// `memory` of a VM. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryConfig {
    /// Guest memory at boot.
    pub size: u64,
    /// Whether the host may merge equal pages.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub mergeable: bool,
    /// How memory is added later.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub hotplug_method: HotplugMethod,
    /// How much memory may be added later, by `vm.resize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// How much memory has been added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Whether device processes share guest memory. Here it is always shared.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub shared: bool,
    /// Whether hugetlbfs backs guest memory.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub hugepages: bool,
    /// Size of the hugetlbfs pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// Whether all pages are touched before the guest starts.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub prefault: bool,
    /// Whether the host sets memory aside for the whole guest.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub reserve: bool,
    /// Memory made of several backings; `size` is 0 then.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub zones: Vec<MemoryZoneConfig>,
    /// Whether transparent huge pages may be used (never done on tagged memory).
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub thp: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: 512 << 20,
            mergeable: false,
            hotplug_method: HotplugMethod::default(),
            hotplug_size: None,
            hotplugged_size: None,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: false,
            reserve: false,
            zones: Vec::new(),
            thp: yes::value(),
        }
    }
}

/// How memory would be added to a running guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum HotplugMethod {
    /// As ACPI memory devices; here a virtio-mem device does it, too.
    #[default]
    Acpi,
    /// Through a virtio-mem device.
    VirtioMem,
}

/// One backing of guest memory. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryZoneConfig {
    /// Name, unique among the zones.
    pub id: String,
    /// Size of the zone.
    pub size: u64,
    /// A file or directory that backs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Whether the host may merge equal pages.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub mergeable: bool,
    /// Whether writes reach the file.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub shared: bool,
    /// Whether hugetlbfs backs it.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub hugepages: bool,
    /// Size of the hugetlbfs pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// The NUMA node of the host that it is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
    /// How much may be added later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// How much has been added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Whether all pages are touched before the guest starts.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub prefault: bool,
    /// Whether the host sets memory aside for the whole zone.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub reserve: bool,
}
