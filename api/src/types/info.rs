//! `vm.info`.

use serde::{Deserialize, Serialize};

use super::DeviceTree;
use crate::config::{MteRequest, VmConfig};

/// A VM as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmInfo {
    /// Its configuration, complete with defaults and, once booted, with the ids that devices got.
    pub config: VmConfig,
    /// Its state.
    pub state: VmState,
    /// Guest memory, bytes: the target where it is being resized.
    #[serde(default)]
    pub memory_actual_size: u64,
    /// Its devices; absent before boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<DeviceTree>,
    /// What became of the request for memory tagging; absent before boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mte: Option<MteInfo>,
    /// How its processes are confined; absent before boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<JailInfo>,
    /// How far the memory of a guest has come that was restored on demand; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_restore: Option<MemoryRestoreInfo>,
    /// How far a snapshot or a restore has come that is under way; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkInfo>,
}

/// Long work that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorkInfo {
    /// `snapshot` or `restore`.
    pub what: String,
    /// Pages of guest memory that were looked at.
    pub done: u64,
    /// Of so many; 0 until the first of them are counted.
    pub of: u64,
}

/// The memory of a guest that was restored on demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryRestoreInfo {
    /// Whether it is there.
    pub state: MemoryRestoreState,
    /// Pages of the guest; 0 until the first of them are counted.
    pub pages: u64,
    /// Those that were looked at, in order. Pages that the guest waited for come before their turn.
    pub done: u64,
    /// Pages that the guest, or a device, waited for.
    pub faults: u64,
    /// Why it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a guest's memory is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum MemoryRestoreState {
    /// Pages are missing, and come as they are touched, or else in order.
    Filling,
    /// All pages are there.
    Complete,
    /// Pages were missing when they could be placed no more; the guest was stopped.
    Lost,
}

/// The state of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum VmState {
    /// Configured, not running: before boot and after shutdown.
    Created,
    /// Its vCPUs run.
    Running,
    /// Never answered here; clients of other monitors know it.
    Shutdown,
    /// Its vCPUs stand still.
    Paused,
}

/// What became of the request for memory tagging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MteInfo {
    /// What was asked.
    pub requested: MteRequest,
    /// Whether the guest has tags.
    pub enabled: bool,
    /// Why it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The level that the guest sees: 2 for FEAT_MTE2, 3 for FEAT_MTE3 (asymmetric faults).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
}

/// How the processes of a VM are confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JailInfo {
    /// One entry for each process.
    pub processes: Vec<JailedProcess>,
}

/// How one process is confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JailedProcess {
    /// `machine`, `control`, or the id of the device that it serves.
    pub role: String,
    /// Its pid.
    pub pid: u32,
    /// What happens at a system call that is not on its list: `kill`, `log` or `off`.
    pub seccomp: String,
    /// The version of landlock that confines it; absent where the host has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_abi: Option<u32>,
    /// What the host could not give, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}
