//! What a client sends to describe a VM, and what it reads back.
//!
//! The types here are *raw*: as sent. Unknown keys are ignored (clients send keys for other architectures and
//! newer versions), `null` means absent, and what is absent is filled with Cloud Hypervisor's default
//! (module `defaults`) when it is read, so that the echo in `vm.info` is complete. [`check`] turns a raw
//! configuration into a [`Checked`] one, in which every number has been held against what the host and this
//! build can do.
//!
//! A folder's file per area of the configuration; bodies of calls that are not about a VM's shape are in `action`.

mod action;
mod check;
mod console;
mod cpus;
mod defaults;
mod disk;
mod list;
mod memory;
mod net;
mod passthrough;
mod payload;
mod platform;
mod rate;
mod rng;
mod shared;

use serde::{Deserialize, Serialize};

pub use action::{
    MemoryRestoreMode, MigrationMode, ReceiveMigrationData, RestoreConfig, RestoredNetConfig,
    SendMigrationData, TimeoutStrategy, VmCoredumpData, VmRemoveDevice, VmResize, VmResizeDisk, VmResizeZone,
    VmSnapshotConfig, ZoneUpdate,
};
pub use check::{
    Balloon, Checked, ConfigError, Cpus, Disk, Fault, Fs, GenericVhostUser, HOTPLUG_BLOCK, Hotplug, Limits,
    Memory, Net, Output, Payload, PciPlace, Pmem, Rng, Vsock, check, check_disk, names,
};
pub use console::{ConsoleConfig, DebugConsoleConfig, Mode, SerialConfig};
pub use cpus::{CoreScheduling, CpuAffinity, CpuFeatures, CpuTopology, CpusConfig, MteRequest};
pub use disk::{DiskConfig, ImageType, LockGranularity, QueueAffinity};
pub use list::MAX_LIST;
pub use memory::{HotplugMethod, MemoryConfig, MemoryZoneConfig};
pub use net::{BadMac, MacAddr, NetConfig, PASSED_FD, VhostMode};
pub use passthrough::{DeviceConfig, UserDeviceConfig, VdpaConfig};
pub use payload::PayloadConfig;
pub use platform::{LandlockConfig, NumaConfig, NumaDistance, PciSegmentConfig, PlatformConfig, TpmConfig};
pub use rate::{RateLimitGroupConfig, RateLimiterConfig, TokenBucket};
pub use rng::{BalloonConfig, RngConfig, RtcConfig};
pub use shared::{FsConfig, GenericVhostUserConfig, PmemConfig, VsockConfig};

/// A whole VM, as sent in `vm.create` and echoed in `vm.info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmConfig {
    /// vCPUs.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub cpus: CpusConfig,
    /// Memory.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub memory: MemoryConfig,
    /// What is booted.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub payload: PayloadConfig,
    /// Limits that several disks share.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub rate_limit_groups: Vec<RateLimitGroupConfig>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub disks: Vec<DiskConfig>,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub net: Vec<NetConfig>,
    /// The entropy device.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub rng: RngConfig,
    /// The balloon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// Shared directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub fs: Vec<FsConfig>,
    /// Devices that vhost-user servers implement whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub generic_vhost_user: Vec<GenericVhostUserConfig>,
    /// Files that the guest maps.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub pmem: Vec<PmemConfig>,
    /// The UART.
    #[serde(default = "defaults::serial::value", deserialize_with = "defaults::serial::deserialize")]
    pub serial: SerialConfig,
    /// The virtio console.
    #[serde(default = "defaults::console::value", deserialize_with = "defaults::console::deserialize")]
    pub console: ConsoleConfig,
    /// x86 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_console: Option<DebugConsoleConfig>,
    /// VFIO devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub devices: Vec<DeviceConfig>,
    /// vfio-user devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub user_devices: Vec<UserDeviceConfig>,
    /// vDPA devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub vdpa: Vec<VdpaConfig>,
    /// Sockets between guest and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// NUMA nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub numa: Vec<NumaConfig>,
    /// Whether there is a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Whether there is a watchdog device.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub watchdog: bool,
    /// A virtio clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc: Option<RtcConfig>,
    /// Whether there is a pvpanic device.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pvpanic: bool,
    /// Shares of the PCI windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub pci_segments: Vec<PciSegmentConfig>,
    /// The platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformConfig>,
    /// A TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmConfig>,
    /// Accepted and echoed: every process is jailed anyway.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub landlock_enable: bool,
    /// Accepted and echoed: no process opens a path anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub landlock_rules: Vec<LandlockConfig>,
}

impl Default for VmConfig {
    /// What an empty body (`{}`) means.
    fn default() -> Self {
        Self {
            cpus: CpusConfig::default(),
            memory: MemoryConfig::default(),
            payload: PayloadConfig::default(),
            rate_limit_groups: Vec::new(),
            disks: Vec::new(),
            net: Vec::new(),
            rng: RngConfig::default(),
            balloon: None,
            fs: Vec::new(),
            generic_vhost_user: Vec::new(),
            pmem: Vec::new(),
            serial: defaults::serial::value(),
            console: defaults::console::value(),
            debug_console: None,
            devices: Vec::new(),
            user_devices: Vec::new(),
            vdpa: Vec::new(),
            vsock: None,
            numa: Vec::new(),
            iommu: false,
            watchdog: false,
            rtc: None,
            pvpanic: false,
            pci_segments: Vec::new(),
            platform: None,
            tpm: None,
            landlock_enable: false,
            landlock_rules: Vec::new(),
        }
    }
}
