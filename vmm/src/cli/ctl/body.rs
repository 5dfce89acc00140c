//! What each command sends, and where.

use std::os::fd::RawFd;

use granule_api::call::{Endpoint, Method, ROOT};
use granule_api::config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, ReceiveMigrationData,
    RestoreConfig, SendMigrationData, UserDeviceConfig, VdpaConfig, VmCoredumpData, VmRemoveDevice, VmResize,
    VmResizeDisk, VmResizeZone, VmSnapshotConfig, VsockConfig,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Body;
use super::typed::Command;
use crate::cli::grammar::{OptionError, read_as, size};
use crate::cli::keys::{self, Keys};

type Call = (Method, String, Body, Vec<RawFd>);

/// The call that a command stands for.
pub(super) fn of(command: Command) -> Result<Call, OptionError> {
    match command {
        Command::Ping => Ok(get("vmm.ping")),
        Command::Info => Ok(get("vm.info")),
        Command::Counters => Ok(get("vm.counters")),
        Command::Create { config } => Ok(put("vm.create", Body::from_name(&config))),
        Command::Delete => Ok(put("vm.delete", Body::None)),
        Command::Boot => Ok(put("vm.boot", Body::None)),
        Command::Pause => Ok(put("vm.pause", Body::None)),
        Command::Resume => Ok(put("vm.resume", Body::None)),
        Command::Shutdown => Ok(put("vm.shutdown", Body::None)),
        Command::Reboot => Ok(put("vm.reboot", Body::None)),
        Command::PowerButton => Ok(put("vm.power-button", Body::None)),
        Command::Nmi => Ok(put("vm.nmi", Body::None)),
        Command::ShutdownVmm => Ok(put("vmm.shutdown", Body::None)),
        Command::Resize { cpus, memory, balloon } => send(
            "vm.resize",
            &VmResize {
                desired_vcpus: cpus,
                desired_ram: memory.map(|text| bytes("--memory", &text)).transpose()?,
                desired_balloon: balloon.map(|text| bytes("--balloon", &text)).transpose()?,
            },
        ),
        Command::ResizeDisk { disk: id, size } => {
            send("vm.resize-disk", &VmResizeDisk { id, desired_size: bytes("--size", &size)? })
        }
        Command::ResizeZone { id, size } => {
            send("vm.resize-zone", &VmResizeZone { id, desired_ram: bytes("--size", &size)? })
        }
        Command::AddDevice(typed) => add::<DeviceConfig>("vm.add-device", &typed.options, keys::DEVICE),
        Command::AddDisk(typed) => add::<DiskConfig>("vm.add-disk", &typed.options, keys::DISK),
        Command::AddFs(typed) => add::<FsConfig>("vm.add-fs", &typed.options, keys::FS),
        Command::AddGenericVhostUser(typed) => add::<GenericVhostUserConfig>(
            "vm.add-generic-vhost-user",
            &typed.options,
            keys::GENERIC_VHOST_USER,
        ),
        Command::AddPmem(typed) => add::<PmemConfig>("vm.add-pmem", &typed.options, keys::PMEM),
        Command::AddNet(typed) => add_net(&typed.options),
        Command::AddVsock(typed) => add::<VsockConfig>("vm.add-vsock", &typed.options, keys::VSOCK),
        Command::AddVdpa(typed) => add::<VdpaConfig>("vm.add-vdpa", &typed.options, keys::VDPA),
        Command::AddUserDevice(typed) => {
            add::<UserDeviceConfig>("vm.add-user-device", &typed.options, keys::USER_DEVICE)
        }
        Command::RemoveDevice { id } => send("vm.remove-device", &VmRemoveDevice { id }),
        Command::Snapshot { destination: destination_url, live, parent } => {
            send("vm.snapshot", &VmSnapshotConfig { destination_url, live, parent })
        }
        Command::Restore(typed) => restore(&typed.options),
        Command::Coredump { destination: destination_url } => {
            send("vm.coredump", &VmCoredumpData { destination_url })
        }
        Command::SendMigration(typed) => {
            add::<SendMigrationData>("vm.send-migration", &typed.options, keys::SEND_MIGRATION)
        }
        Command::ReceiveMigration(typed) => {
            add::<ReceiveMigrationData>("vm.receive-migration", &typed.options, keys::RECEIVE_MIGRATION)
        }
        Command::Raw { endpoint, body } => Ok(raw(endpoint, body.as_deref())),
    }
}

fn get(endpoint: &str) -> Call {
    (Method::Get, endpoint.to_owned(), Body::None, Vec::new())
}

fn put(endpoint: &str, body: Body) -> Call {
    (Method::Put, endpoint.to_owned(), body, Vec::new())
}

fn send<T: Serialize>(endpoint: &str, value: &T) -> Result<Call, OptionError> {
    let body =
        granule_api::json::write(value).map_err(|error| OptionError::new(endpoint, error.to_string()))?;
    Ok(put(endpoint, Body::Json(body)))
}

fn add<T: Serialize + DeserializeOwned>(endpoint: &str, text: &str, keys: Keys) -> Result<Call, OptionError> {
    send(endpoint, &read_as::<T>(command_of(endpoint), text, keys)?)
}

/// The descriptors go along as descriptors; their numbers mean nothing to the monitor.
fn add_net(text: &str) -> Result<Call, OptionError> {
    let mut net: NetConfig = read_as("add-net", text, keys::NET)?;
    let fds = std::mem::take(&mut net.fds);
    let (method, endpoint, body, _) = send("vm.add-net", &net)?;
    Ok((method, endpoint, body, fds))
}

fn restore(text: &str) -> Result<Call, OptionError> {
    let mut config: RestoreConfig = read_as("restore", text, keys::RESTORE)?;
    let mut fds = Vec::new();
    for net in &mut config.net_fds {
        net.num_fds = net.fds.len();
        fds.append(&mut net.fds);
    }
    let (method, endpoint, body, _) = send("vm.restore", &config)?;
    Ok((method, endpoint, body, fds))
}

/// A call by its name alone; one that is not known is sent as it is.
fn raw(endpoint: String, body: Option<&str>) -> Call {
    let known = Endpoint::find(&format!("{ROOT}{endpoint}")).map(|endpoint| endpoint.method);
    let body = body.map_or(Body::None, Body::from_name);
    let guess = if body == Body::None { Method::Get } else { Method::Put };
    (known.unwrap_or(guess), endpoint, body, Vec::new())
}

fn command_of(endpoint: &str) -> &str {
    endpoint.strip_prefix("vm.").unwrap_or(endpoint)
}

fn bytes(option: &str, text: &str) -> Result<u64, OptionError> {
    size(text).map_err(|fault| OptionError::new(option, fault))
}
