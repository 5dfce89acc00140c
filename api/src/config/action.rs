//! The bodies of the calls that change or move a VM: resize, snapshot, restore, migration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, downtime_ms, migration_timeout_s, one_connection};
use super::list;

/// Body of `vm.resize`: what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmResize {
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_vcpus: Option<u32>,
    /// Guest memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_ram: Option<u64>,
    /// Balloon, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_balloon: Option<u64>,
}

/// Body of `vm.resize-disk`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmResizeDisk {
    /// The disk.
    pub id: String,
    /// Its new size, bytes.
    pub desired_size: u64,
}

/// Body of `vm.resize-zone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmResizeZone {
    /// The memory zone.
    pub id: String,
    /// Its new size, bytes.
    pub desired_ram: u64,
}

/// Body of `vm.remove-device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmRemoveDevice {
    /// The device.
    pub id: String,
}

/// Body of `vm.snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmSnapshotConfig {
    /// `file://` and the directory.
    pub destination_url: String,
    /// Whether the guest goes on while it is saved.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub live: bool,
    /// `file://` and the directory of the snapshot that this one holds the changes since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// Body of `vm.coredump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmCoredumpData {
    /// `file://` and the file.
    pub destination_url: String,
}

/// Body of `vm.restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RestoreConfig {
    /// `file://` and the directory.
    pub source_url: String,
    /// Whether all pages are there before the guest resumes.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub prefault: bool,
    /// When memory is read.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub memory_restore_mode: MemoryRestoreMode,
    /// Whether the guest runs at once.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub resume: bool,
    /// Descriptors that come along for network interfaces, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub net_fds: Vec<RestoredNetConfig>,
    /// Memory zones whose host node changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub zone_updates: Vec<ZoneUpdate>,
}

/// When a restored VM's memory is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum MemoryRestoreMode {
    /// Before the call is answered.
    #[default]
    Copy,
    /// Page by page, as the guest touches it.
    OnDemand,
}

/// How many descriptors a restored network interface takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RestoredNetConfig {
    /// The interface.
    pub id: String,
    /// Descriptors.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub num_fds: usize,
    /// Their numbers on the command line; numbers of a client's own are never used.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub fds: Vec<i32>,
}

/// Another host node for a memory zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "VmMemoryZoneUpdateData"))]
pub struct ZoneUpdate {
    /// The zone.
    pub id: String,
    /// The host's NUMA node.
    pub host_numa_node: u32,
}

/// Body of `vm.receive-migration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReceiveMigrationData {
    /// `unix:` and a path, or `tcp:` and an address.
    pub receiver_url: String,
    /// Directory of certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When memory is sent.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub memory_mode: MigrationMode,
    /// Descriptors that come along for network interfaces, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub net_fds: Vec<RestoredNetConfig>,
    /// Memory zones whose host node changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub zone_updates: Vec<ZoneUpdate>,
}

/// When a migrating VM's memory is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum MigrationMode {
    /// Before the guest resumes at the destination.
    #[default]
    Precopy,
    /// After it.
    Postcopy,
}

/// Body of `vm.send-migration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SendMigrationData {
    /// `unix:` and a path, or `tcp:` and an address.
    pub destination_url: String,
    /// Whether the destination is on this host and takes the memory file itself.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub local: bool,
    /// The longest pause to aim for, milliseconds.
    #[serde(default = "downtime_ms::value", deserialize_with = "downtime_ms::deserialize")]
    pub downtime_ms: u64,
    /// The longest time that the whole may take, seconds.
    #[serde(default = "migration_timeout_s::value", deserialize_with = "migration_timeout_s::deserialize")]
    pub timeout_s: u64,
    /// What happens after that time.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub timeout_strategy: TimeoutStrategy,
    /// Connections that share the work, 1 to 128.
    #[serde(default = "one_connection::value", deserialize_with = "one_connection::deserialize")]
    pub connections: u32,
    /// Directory of certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When memory is sent.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub memory_mode: MigrationMode,
}

/// What happens when a migration takes too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum TimeoutStrategy {
    /// It is given up; the VM runs on where it is.
    #[default]
    Cancel,
    /// It goes on, whatever the pause.
    Ignore,
}
