//! vmm.ping and vm.info, from what `control` knows. Neither asks anyone.

use granule_api::error::ApiError;
use granule_api::server::Reply;
use granule_api::types::{
    DeviceNode, DeviceTree, HostMte, JailInfo, JailedProcess, MemoryRestoreInfo, MemoryRestoreState, MteInfo,
    PciBar, Ping, Resource, VmInfo, VmState, WorkInfo,
};
use granule_api::{BUILD_VERSION, COMPAT_VERSION};
use granule_jail::SeccompMode;

use super::admission::Lifecycle;
use super::children::Children;
use super::host::HostView;
use super::transfer::on_demand::Fill;
use super::vm::{Created, Live, MteDecision, Vm};

/// vmm.ping. The pid is the machine's: it is the one that the client started.
pub fn ping(host: &HostView) -> Result<Reply, ApiError> {
    let mut features = vec!["process-isolation".to_owned()];
    if host.report().is_some() {
        features.push("kvm".into());
    }
    let reason = host.no_shared_tags();
    if reason.is_none() {
        features.push("mte".into());
    }
    Reply::json(&Ping {
        build_version: Some(BUILD_VERSION.into()),
        version: COMPAT_VERSION.into(),
        pid: rustix::process::getppid().map(|pid| i64::from(pid.as_raw_nonzero().get())),
        features,
        mte: Some(HostMte { available: reason.is_none(), reason }),
    })
}

/// vm.info, while there is a machine.
pub fn info(vm: &Vm, fill: Option<&Fill>, work: Option<WorkInfo>) -> Option<VmInfo> {
    let created = vm.created()?;
    let live = match vm {
        Vm::Live(_, live) => Some(&**live),
        _ => None,
    };
    Some(VmInfo {
        config: created.config.clone(),
        state: match vm.lifecycle() {
            Lifecycle::Running => VmState::Running,
            Lifecycle::Paused => VmState::Paused,
            Lifecycle::Created | Lifecycle::Absent => VmState::Created,
        },
        memory_actual_size: created.config.memory.size,
        device_tree: live.map(device_tree),
        mte: Some(mte(created, live)),
        jail: live.map(|live| live.jail.clone()),
        memory_restore: fill.map(memory_restore),
        work,
    })
}

fn memory_restore(fill: &Fill) -> MemoryRestoreInfo {
    MemoryRestoreInfo {
        state: match (&fill.lost, &fill.mover) {
            (Some(_), _) => MemoryRestoreState::Lost,
            (None, Some(_)) => MemoryRestoreState::Filling,
            (None, None) => MemoryRestoreState::Complete,
        },
        pages: fill.of,
        done: fill.done,
        faults: fill.faults,
        reason: fill.lost.clone(),
    }
}

fn mte(created: &Created, live: Option<&Live>) -> MteInfo {
    let (enabled, reason) = match &created.mte {
        MteDecision::On => (true, None),
        MteDecision::Off { reason } => (false, Some(reason.clone())),
    };
    MteInfo {
        requested: created.checked.cpus.mte,
        enabled,
        reason,
        level: live.map(|live| live.report.mte.level),
    }
}

/// Each device and the PCI function it sits behind, named as Cloud Hypervisor names them.
fn device_tree(live: &Live) -> DeviceTree {
    let mut tree = DeviceTree::new();
    for device in &live.report.devices {
        let function = format!("_virtio-pci-{}", device.id);
        let resources = device.bars.iter().map(|bar| {
            Resource::PciBar(PciBar {
                index: bar.index.into(),
                base: bar.base,
                size: bar.size,
                type_: if bar.prefetchable { "Mmio64" } else { "Mmio32" }.into(),
                prefetchable: bar.prefetchable,
            })
        });
        let node = DeviceNode {
            id: function.clone(),
            resources: resources.collect(),
            children: vec![device.id.clone()],
            pci_bdf: Some(device.bdf.clone()),
        };
        tree.insert(function, node);
        tree.insert(device.id.clone(), DeviceNode { id: device.id.clone(), ..DeviceNode::default() });
    }
    tree
}

/// How the processes are confined. Each entered its jail before it served anything, or it would not be there.
pub fn jail(children: &Children) -> JailInfo {
    let landlock_abi = Some(granule_jail::landlock_abi()).filter(|&abi| abi > 0);
    let seccomp = match children.seccomp() {
        SeccompMode::Enforce => "kill",
        SeccompMode::Log => "log",
        SeccompMode::Off => "off",
    };
    let missing =
        if landlock_abi.is_none() { vec!["this kernel has no landlock".to_owned()] } else { Vec::new() };
    let process = |role: &str, pid, landlock_abi| JailedProcess {
        role: role.to_owned(),
        pid,
        seccomp: seccomp.to_owned(),
        landlock_abi,
        missing: missing.clone(),
    };
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    // control opens files by path for everyone, so landlock does not confine it.
    let mut processes = vec![process("machine", parent, landlock_abi), process("control", own, None)];
    processes.extend(children.pids().map(|(id, pid)| process(id, pid, landlock_abi)));
    JailInfo { processes }
}
