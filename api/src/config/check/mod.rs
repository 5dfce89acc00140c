//! Raw → checked: every number, path and wish of a [`VmConfig`] held against what this host and this build can do.
//!
//! One pure function, [`check`]; the same configuration and limits always give the same answer, and nothing on the
//! host is touched (whether a file is there is found out when it is opened). A refusal names the field by its path
//! in the JSON: `cpus.boot_vcpus: 0 is not in 1..=32`.

mod balloon;
mod built;
mod disk;
mod error;
pub mod external;
mod groups;
mod machine;
mod net;
mod output;
mod places;
mod pmem;
#[cfg(test)]
mod tests;
mod vsock;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CoreScheduling, CpuTopology, MteRequest, VmConfig};
pub use balloon::Balloon;
pub use disk::{Disk, disk as check_disk};
pub use error::{ConfigError, Fault};
pub use external::{Fs, GenericVhostUser};
pub use net::Net;
pub use output::Output;
pub use places::{PciPlace, names};
pub use pmem::Pmem;
pub use vsock::Vsock;

/// What the host and the build allow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// vCPUs that a VM may have.
    pub max_vcpus: u32,
    /// Memory of the host, bytes.
    pub host_memory: u64,
    /// Pages of the host, bytes; guest memory comes in these.
    pub page_size: u64,
    /// Bits of guest physical address that KVM translates.
    pub ipa_bits: u8,
    /// Guest address at which memory begins.
    pub ram_start: u64,
    /// PCI segments that the memory map has room for.
    pub max_pci_segments: u16,
    /// What a configuration without a word about memory tagging means.
    pub mte_default: MteRequest,
}

/// A configuration that this build can make a VM of, as far as can be told without touching the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// vCPUs.
    pub cpus: Cpus,
    /// Memory.
    pub memory: Memory,
    /// What is booted.
    pub payload: Payload,
    /// Where the UART's text goes.
    pub serial: Output,
    /// Where the virtio console's text goes.
    pub console: Output,
    /// Where on the PCI bus the console is wanted.
    pub console_place: PciPlace,
    /// Whether there is a watchdog.
    pub watchdog: bool,
    /// Disks, in the order of `/dev/vda`, `/dev/vdb`, ….
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub net: Vec<Net>,
    /// The entropy device.
    pub rng: Rng,
    /// Shared directories.
    pub fs: Vec<Fs>,
    /// Devices that other programs serve whole.
    pub generic_vhost_user: Vec<GenericVhostUser>,
    /// Persistent memory.
    pub pmem: Vec<Pmem>,
    /// Sockets between guest and host.
    pub vsock: Option<Vsock>,
    /// The balloon.
    pub balloon: Option<Balloon>,
    /// PCI segments, 1 or more.
    pub pci_segments: u16,
}

/// Checked vCPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus {
    /// vCPUs at boot, 1 or more.
    pub boot: u8,
    /// vCPUs that the VM may ever have, `boot` or more.
    pub max: u8,
    /// Their layout; flat where none is given.
    pub topology: Option<CpuTopology>,
    /// Bits of guest physical address, no more than KVM has.
    pub phys_bits: u8,
    /// Memory tagging, after `--mte` has had its say.
    pub mte: MteRequest,
    /// Which threads may share a core with the vCPUs.
    pub core_scheduling: CoreScheduling,
}

/// Checked memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes: some, whole pages, no more than host and address space have.
    pub size: u64,
    /// Whether all pages are touched before the guest starts.
    pub prefault: bool,
    /// Whether transparent huge pages may be used where there are no tags.
    pub thp: bool,
    /// Whether the host sets memory aside for the whole guest.
    pub reserve: bool,
    /// Memory that may be plugged while the guest runs.
    #[serde(default)]
    pub hotplug: Option<Hotplug>,
}

/// Memory that may be plugged, checked; both in bytes, and whole blocks of [`HOTPLUG_BLOCK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hotplug {
    /// How much may be, more than 0.
    pub size: u64,
    /// How much is to be, `size` at the most.
    pub plugged: u64,
}

/// What is plugged and unplugged at once.
pub const HOTPLUG_BLOCK: u64 = 2 << 20;

/// What is booted, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The kernel; not empty.
    pub kernel: PathBuf,
    /// The initial RAM disk, if there is one; not empty.
    pub initramfs: Option<PathBuf>,
    /// The command line; no NUL in it, no longer than a kernel reads.
    pub cmdline: String,
}

/// The entropy device, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    /// The name that it was given, if it was.
    pub id: Option<String>,
    /// Where the entropy comes from; not empty.
    pub source: PathBuf,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Checks a configuration.
///
/// # Errors
/// The first field that is at fault, in the order in which the fields are documented.
pub fn check(config: &VmConfig, limits: &Limits) -> Result<Checked, ConfigError> {
    let cpus = machine::cpus(&config.cpus, limits)?;
    let memory = machine::memory(&config.memory, cpus.phys_bits, limits)?;
    let payload = machine::payload(&config.payload)?;
    built::refuse_unbuilt(config)?;
    let serial = output::serial(&config.serial)?;
    let console = output::console(&config.console)?;
    output::at_odds(&serial, &console)?;
    let pci_segments = places::segments(config, limits)?;
    let groups = &config.rate_limit_groups;
    groups::check(groups)?;
    let disks = each("disks", &config.disks, |field, disk| check_disk(field, disk, groups, pci_segments))?;
    let rng = Rng {
        id: config.rng.id.clone(),
        source: machine::path("rng.src", &config.rng.src)?,
        place: places::place("rng", config.rng.pci_segment, config.rng.pci_device_id, pci_segments)?,
    };
    let fs = each("fs", &config.fs, |field, fs| external::fs(field, fs, pci_segments))?;
    let generic_vhost_user = each("generic_vhost_user", &config.generic_vhost_user, |field, device| {
        external::generic(field, device, pci_segments)
    })?;
    let pmem = pmem::check(&config.pmem, pci_segments)?;
    let net = each("net", &config.net, |field, raw| net::net(field, raw, pci_segments))?;
    let vsock = config.vsock.as_ref().map(|raw| vsock::vsock(raw, pci_segments)).transpose()?;
    let at = &config.console;
    let console_place = places::place("console", at.pci_segment, at.pci_device_id, pci_segments)?;
    let balloon = config.balloon.as_ref();
    let balloon = balloon.map(|raw| balloon::check(raw, memory.size, pci_segments)).transpose()?;
    places::unique_ids(config)?;
    Ok(Checked {
        cpus,
        memory,
        payload,
        serial,
        console,
        console_place,
        watchdog: config.watchdog,
        disks,
        net,
        rng,
        pmem,
        balloon,
        fs,
        generic_vhost_user,
        vsock,
        pci_segments,
    })
}

/// Checks every item of a list; `check` is told its place, as in `disks[1]`.
fn each<T, C>(
    list: &str,
    items: &[T],
    check: impl Fn(&str, &T) -> Result<C, ConfigError>,
) -> Result<Vec<C>, ConfigError> {
    items.iter().enumerate().map(|(index, item)| check(&format!("{list}[{index}]"), item)).collect()
}
