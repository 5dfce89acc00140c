//! What the table of endpoints does not know of them: bodies, answers, a line of text.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, ReceiveMigrationData,
    RestoreConfig, SendMigrationData, UserDeviceConfig, VdpaConfig, VmConfig, VmCoredumpData, VmRemoveDevice,
    VmResize, VmResizeDisk, VmResizeZone, VmSnapshotConfig, VsockConfig,
};
use crate::types::{PciDeviceInfo, Ping, VmCounters, VmInfo};

type Part = fn(&mut SchemaGenerator) -> Schema;

/// One path.
pub(super) struct Path {
    pub name: &'static str,
    pub summary: &'static str,
    pub body: Option<Part>,
    /// What an answer with 200 holds.
    pub answer: Option<Part>,
    /// The other codes that it is answered with.
    pub codes: &'static [u16],
}

fn part<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn plain(name: &'static str, summary: &'static str, codes: &'static [u16]) -> Path {
    Path { name, summary, body: None, answer: None, codes }
}

const fn gives(name: &'static str, summary: &'static str, answer: Part, codes: &'static [u16]) -> Path {
    Path { name, summary, body: None, answer: Some(answer), codes }
}

const fn takes(name: &'static str, summary: &'static str, body: Part, codes: &'static [u16]) -> Path {
    Path { name, summary, body: Some(body), answer: None, codes }
}

/// Adds a device: 200 with its place on a VM that runs, 204 on one that does not.
const fn adds(name: &'static str, summary: &'static str, body: Part) -> Path {
    Path {
        name,
        summary,
        body: Some(body),
        answer: Some(part::<PciDeviceInfo>),
        codes: &[204, 400, 404, 409, 500],
    }
}

pub(super) const PATHS: &[Path] = &[
    gives("vmm.ping", "What answers here, and what the host can do", part::<Ping>, &[]),
    plain("vmm.shutdown", "End the VM and the monitor", &[200]),
    gives("vm.info", "The VM as it is now", part::<VmInfo>, &[404]),
    gives("vm.counters", "Counters of the devices", part::<VmCounters>, &[404, 405]),
    takes("vm.create", "Check and keep the configuration of a VM", part::<VmConfig>, &[204, 400, 409]),
    plain("vm.delete", "Forget the VM; one that runs is shut down first", &[204, 404]),
    plain("vm.boot", "Boot the VM", &[204, 400, 404, 405, 500]),
    plain("vm.pause", "Stop the vCPUs", &[204, 404, 405, 500]),
    plain("vm.resume", "Let the vCPUs go on", &[204, 404, 405, 500]),
    plain("vm.shutdown", "End the guest; its configuration stays", &[204, 404, 405]),
    plain("vm.reboot", "End the guest and boot it anew", &[204, 404, 405, 500]),
    plain("vm.power-button", "Press the guest's power button", &[204, 404, 405]),
    plain("vm.nmi", "Send the guest an NMI", &[204, 400, 404, 405, 500]),
    takes("vm.resize", "Change vCPUs or memory", part::<VmResize>, &[204, 400, 404, 405, 429, 500]),
    takes("vm.resize-disk", "Change the size of a disk", part::<VmResizeDisk>, &[204, 400, 404, 405, 500]),
    takes("vm.resize-zone", "Change the size of a memory zone", part::<VmResizeZone>, &[204, 400, 404, 500]),
    adds("vm.add-device", "Add a VFIO device", part::<DeviceConfig>),
    takes("vm.remove-device", "Remove a device", part::<VmRemoveDevice>, &[204, 400, 404, 405, 500]),
    adds("vm.add-disk", "Add a disk", part::<DiskConfig>),
    adds("vm.add-fs", "Add a shared directory", part::<FsConfig>),
    adds("vm.add-generic-vhost-user", "Add any vhost-user device", part::<GenericVhostUserConfig>),
    adds("vm.add-pmem", "Add persistent memory", part::<PmemConfig>),
    adds("vm.add-net", "Add a network interface", part::<NetConfig>),
    adds("vm.add-vsock", "Add sockets between guest and host", part::<VsockConfig>),
    adds("vm.add-vdpa", "Add a vDPA device", part::<VdpaConfig>),
    adds("vm.add-user-device", "Add a vfio-user device", part::<UserDeviceConfig>),
    takes("vm.snapshot", "Save the VM", part::<VmSnapshotConfig>, &[204, 400, 404, 405, 500]),
    takes(
        "vm.coredump",
        "Write the guest's memory as a core file",
        part::<VmCoredumpData>,
        &[204, 400, 404, 405, 500],
    ),
    takes("vm.restore", "Make a VM of a snapshot", part::<RestoreConfig>, &[204, 400, 404, 409, 500]),
    takes(
        "vm.receive-migration",
        "Wait for a VM that comes from elsewhere",
        part::<ReceiveMigrationData>,
        &[204, 400, 409, 500],
    ),
    takes(
        "vm.send-migration",
        "Move the VM elsewhere",
        part::<SendMigrationData>,
        &[204, 400, 404, 405, 500],
    ),
];
