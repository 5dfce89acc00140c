//! A device that is added to a VM, or removed from it, as a change of its configuration.
//!
//! ```text
//!  body ──► NewDevice ──► whole configuration with it ──► checked as vm.create checks it
//!                     └─► configuration with it alone ──► planned as vm.boot plans it
//! ```
//! So a device that is added later passes the same checks, is opened by the same code and is echoed in the same place as one
//! that was there from the beginning, whatever its kind.

use std::os::fd::OwnedFd;

use granule_api::call::Call;
use granule_api::config::{
    Checked, DiskConfig, FsConfig, GenericVhostUserConfig, Mode, NetConfig, PASSED_FD, PmemConfig, VmConfig,
    VsockConfig,
};
use granule_api::error::{ApiError, ErrorKind};

use super::create::{self, Defaults};
use super::devices::Ids;
use super::host::HostView;
use super::refusal::refusal;

/// A device as it was sent.
#[derive(Debug)]
pub enum NewDevice {
    /// vm.add-disk
    Disk(Box<DiskConfig>),
    /// vm.add-net, with the taps that came along
    Net(Box<NetConfig>, Vec<OwnedFd>),
    /// vm.add-pmem
    Pmem(PmemConfig),
    /// vm.add-fs
    Fs(FsConfig),
    /// vm.add-generic-vhost-user
    Generic(GenericVhostUserConfig),
    /// vm.add-vsock
    Vsock(VsockConfig),
}

/// A device that can be had.
#[derive(Debug)]
pub struct Addition {
    /// Its name.
    pub id: String,
    /// The whole configuration with it.
    pub whole: VmConfig,
    /// The same, checked.
    pub checked: Checked,
    /// Descriptors that came with the request.
    pub passed: Vec<OwnedFd>,
    /// A configuration that has no other device of its kinds.
    pub alone: VmConfig,
    /// The same, checked.
    pub alone_checked: Checked,
}

impl NewDevice {
    /// The device that a call is about; descriptors that it has no use for are closed.
    pub fn of(call: Call, fds: Vec<OwnedFd>) -> Option<Self> {
        Some(match call {
            Call::VmAddDisk(disk) => Self::Disk(disk),
            Call::VmAddNet(mut net) => {
                // Numbers of the client's own, as runtime-rs writes them beside what it sends, mean nothing here.
                if !fds.is_empty() {
                    net.fds = vec![PASSED_FD; fds.len()];
                }
                Self::Net(net, fds)
            }
            Call::VmAddPmem(pmem) => Self::Pmem(pmem),
            Call::VmAddFs(fs) => Self::Fs(fs),
            Call::VmAddGenericVhostUser(device) => Self::Generic(device),
            Call::VmAddVsock(vsock) => Self::Vsock(vsock),
            _ => return None,
        })
    }

    /// Its name, if it was given one.
    pub fn id(&mut self) -> &mut Option<String> {
        match self {
            Self::Disk(device) => &mut device.id,
            Self::Net(device, _) => &mut device.id,
            Self::Pmem(device) => &mut device.id,
            Self::Fs(device) => &mut device.id,
            Self::Generic(device) => &mut device.id,
            Self::Vsock(device) => &mut device.id,
        }
    }

    /// What the names of its kind begin with.
    fn prefix(&self) -> &'static str {
        match self {
            Self::Disk(_) => "_disk",
            Self::Net(..) => "_net",
            Self::Pmem(_) => "_pmem",
            Self::Fs(_) => "_fs",
            Self::Generic(_) => "_generic_vhost_user",
            Self::Vsock(_) => "_vsock",
        }
    }

    /// The slot that it is wanted in.
    fn slot(&self) -> Option<u8> {
        match self {
            Self::Disk(device) => device.pci_device_id,
            Self::Net(device, _) => device.pci_device_id,
            Self::Pmem(device) => device.pci_device_id,
            Self::Fs(device) => device.pci_device_id,
            Self::Generic(device) => device.pci_device_id,
            Self::Vsock(device) => device.pci_device_id,
        }
    }

    /// Puts it behind those of its kind that `config` has.
    pub fn join(self, config: &mut VmConfig) -> Result<(), ApiError> {
        match self {
            Self::Disk(device) => config.disks.push(*device),
            Self::Net(device, _) => config.net.push(*device),
            Self::Pmem(device) => config.pmem.push(device),
            Self::Fs(device) => config.fs.push(device),
            Self::Generic(device) => config.generic_vhost_user.push(device),
            Self::Vsock(_) if config.vsock.is_some() => {
                return Err(refusal(ErrorKind::Conflict, "vsock: the VM has one already, and can have one"));
            }
            Self::Vsock(device) => config.vsock = Some(device),
        }
        Ok(())
    }

    /// The descriptors that came along.
    pub fn take_passed(&mut self) -> Vec<OwnedFd> {
        match self {
            Self::Net(_, fds) => std::mem::take(fds),
            _ => Vec::new(),
        }
    }

    /// Gives it a name, if it has none.
    pub fn name(&mut self, config: &VmConfig, ids: &mut Ids) -> String {
        let prefix = self.prefix();
        let names = super::devices::taken(config);
        self.id().get_or_insert_with(|| ids.give(prefix, &names)).clone()
    }

    fn join_both(self, whole: &mut VmConfig, alone: &mut VmConfig) -> Result<(), ApiError> {
        let copy = match &self {
            Self::Disk(device) => Self::Disk(device.clone()),
            Self::Net(device, _) => Self::Net(device.clone(), Vec::new()),
            Self::Pmem(device) => Self::Pmem(device.clone()),
            Self::Fs(device) => Self::Fs(device.clone()),
            Self::Generic(device) => Self::Generic(device.clone()),
            Self::Vsock(device) => Self::Vsock(device.clone()),
        };
        copy.join(alone)?;
        self.join(whole)
    }

    /// Checks what becomes of `config` with it. For a guest that runs, it is named now and looked at alone, too.
    pub fn admit(
        mut self,
        config: &VmConfig,
        ids: &mut Ids,
        defaults: &Defaults,
        host: &HostView,
    ) -> Result<Addition, ApiError> {
        if self.slot().is_some() {
            return Err(refusal(
                ErrorKind::BadRequest,
                "pci_device_id: a device that is added to a running VM sits behind a hotplug port, where it has no choice \
                 of slots",
            ));
        }
        let (id, passed) = (self.name(config, ids), self.take_passed());
        let mut whole = config.clone();
        let mut alone = without_devices(config);
        self.join_both(&mut whole, &mut alone)?;
        let checked = create::create(whole.clone(), defaults, host)?.checked;
        let alone_checked = create::create(alone.clone(), defaults, host)?.checked;
        Ok(Addition { id, whole, checked, passed, alone, alone_checked })
    }
}

/// `config` without any device that can be added, or that there may be besides.
fn without_devices(config: &VmConfig) -> VmConfig {
    let mut bare = config.clone();
    bare.disks.clear();
    bare.net.clear();
    bare.pmem.clear();
    bare.fs.clear();
    bare.generic_vhost_user.clear();
    bare.vsock = None;
    bare.balloon = None;
    bare.memory.hotplug_size = None;
    bare.memory.hotplugged_size = None;
    bare.watchdog = false;
    bare.console.mode = Mode::Off;
    bare
}

/// What a configuration has to do with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It had it, and has it no more.
    Removed,
    /// It has it, and cannot be without.
    Fixed,
    /// It does not know it.
    Unknown,
}

/// Takes the device of that name out of `config`.
pub fn remove(config: &mut VmConfig, id: &str) -> Removal {
    if !granule_api::config::names(config).any(|name| name == id) {
        return Removal::Unknown;
    }
    let other = |name: &Option<String>| name.as_deref() != Some(id);
    config.disks.retain(|device| other(&device.id));
    config.net.retain(|device| other(&device.id));
    config.pmem.retain(|device| other(&device.id));
    config.fs.retain(|device| other(&device.id));
    config.generic_vhost_user.retain(|device| other(&device.id));
    config.vsock.take_if(|device| !other(&device.id));
    match granule_api::config::names(config).any(|name| name == id) {
        true => Removal::Fixed,
        false => Removal::Removed,
    }
}

#[cfg(test)]
mod tests {
    use granule_api::config::MteRequest;

    use super::*;

    fn config() -> VmConfig {
        serde_json::from_str(
            r#"{"payload":{"kernel":"/boot/Image"},"cpus":{"boot_vcpus":1,"max_vcpus":1,"features":{"mte":false}},
                "fs":[{"tag":"a","socket":"/a","id":"first"}],"rng":{"src":"/dev/urandom","id":"chaos"}}"#,
        )
        .unwrap()
    }

    fn share(tag: &str, id: Option<&str>) -> NewDevice {
        let mut device: FsConfig =
            serde_json::from_str(&format!(r#"{{"tag":"{tag}","socket":"/s"}}"#)).unwrap();
        device.id = id.map(str::to_owned);
        NewDevice::Fs(device)
    }

    fn admit(device: NewDevice) -> Result<Addition, ApiError> {
        let host = HostView::Unknown { causes: vec![] };
        device.admit(&config(), &mut Ids::default(), &Defaults::new(MteRequest::Off), &host)
    }

    #[test]
    fn an_added_device_is_named_and_joins_the_others() {
        let addition = admit(share("b", None)).unwrap();
        assert_eq!(addition.id, "_fs0");
        let ids: Vec<_> = addition.whole.fs.iter().map(|fs| fs.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["first", "_fs0"]);
        assert_eq!(addition.checked.fs.len(), 2);
        assert_eq!((addition.alone.fs.len(), addition.alone_checked.fs.len()), (1, 1));
    }

    #[test]
    fn a_name_that_is_taken_and_a_slot_that_cannot_be_had_are_refused() {
        assert_eq!(admit(share("b", Some("first"))).unwrap_err().status(), 409);
        assert_eq!(admit(share("b", Some("chaos"))).unwrap_err().status(), 409);
        let NewDevice::Fs(mut fs) = share("b", None) else { unreachable!() };
        fs.pci_device_id = Some(5);
        assert_eq!(admit(NewDevice::Fs(fs)).unwrap_err().status(), 400);
    }

    #[test]
    fn what_is_removed_is_what_was_named() {
        let mut config = config();
        assert_eq!(remove(&mut config, "nobody"), Removal::Unknown);
        assert_eq!(remove(&mut config, "chaos"), Removal::Fixed);
        assert_eq!(config.fs.len(), 1);
        assert_eq!(remove(&mut config, "first"), Removal::Removed);
        assert!(config.fs.is_empty());
    }
}
