//! What this build does not have yet, or will never have: one line each, gone as it is built.

use super::error::{ConfigError, Fault};
use crate::config::{CoreScheduling, VmConfig};

struct Refusal {
    field: &'static str,
    asked: fn(&VmConfig) -> bool,
    reason: &'static str,
}

const fn refusal(field: &'static str, asked: fn(&VmConfig) -> bool, reason: &'static str) -> Refusal {
    Refusal { field, asked, reason }
}

const REFUSALS: &[Refusal] = &[
    refusal("devices", |vm| !vm.devices.is_empty(), "VFIO devices are not supported yet"),
    refusal("user_devices", |vm| !vm.user_devices.is_empty(), "vfio-user devices are not supported"),
    refusal("vdpa", |vm| !vm.vdpa.is_empty(), "vDPA devices are not supported"),
    refusal("numa", |vm| !vm.numa.is_empty(), "NUMA nodes are not supported"),
    refusal("iommu", |vm| vm.iommu, "a virtual IOMMU is not supported"),
    refusal("rng.iommu", |vm| vm.rng.iommu, "a virtual IOMMU is not supported"),
    refusal(
        "vsock.iommu",
        |vm| vm.vsock.as_ref().is_some_and(|vsock| vsock.iommu),
        "a virtual IOMMU is not supported",
    ),
    refusal("console.iommu", |vm| vm.console.iommu, "a virtual IOMMU is not supported"),
    refusal("rtc", |vm| vm.rtc.is_some(), "a virtio clock is not supported; the guest has a PL031"),
    refusal("pvpanic", |vm| vm.pvpanic, "pvpanic is not supported yet"),
    refusal("pci_segments", |vm| !vm.pci_segments.is_empty(), "weights of PCI windows are not supported"),
    refusal(
        "platform.iommu_segments",
        |vm| vm.platform.as_ref().is_some_and(|platform| !platform.iommu_segments.is_empty()),
        "a virtual IOMMU is not supported",
    ),
    refusal(
        "platform.tdx",
        |vm| vm.platform.as_ref().is_some_and(|platform| platform.tdx),
        "TDX guests are for x86 only",
    ),
    refusal(
        "platform.sev_snp",
        |vm| vm.platform.as_ref().is_some_and(|platform| platform.sev_snp),
        "SEV-SNP guests are for x86 only",
    ),
    refusal("tpm", |vm| vm.tpm.is_some(), "a TPM is not supported"),
    refusal(
        "memory.zones[].file",
        |vm| vm.memory.zones.iter().any(|zone| zone.file.is_some()),
        "guest memory in a file of the client's (a template) is not supported: the kernel keeps no tags for pages of files, \
         and a snapshot of granule's has memory and tags in it; restore that with memory_restore_mode: OnDemand to start as quickly",
    ),
    refusal("memory.zones", |vm| !vm.memory.zones.is_empty(), "memory zones are not supported yet"),
    refusal("memory.hugepages", |vm| vm.memory.hugepages, "hugetlbfs memory is not supported yet"),
    refusal(
        "memory.mergeable",
        |vm| vm.memory.mergeable,
        "guest memory is shared with device processes, and the kernel merges private memory only",
    ),
    refusal(
        "memory.reserve",
        |vm| vm.memory.reserve,
        "setting memory aside is not supported yet; prefault touches it",
    ),
    refusal(
        "cpus.core_scheduling",
        |vm| vm.cpus.core_scheduling == CoreScheduling::Vcpu,
        "a core for each vCPU is not supported yet",
    ),
    refusal("cpus.affinity", |vm| !vm.cpus.affinity.is_empty(), "pinning of vCPUs is not supported yet"),
    refusal(
        "payload.firmware",
        |vm| vm.payload.firmware.is_some(),
        "firmware is not supported; give a kernel",
    ),
    refusal("payload.igvm", |vm| vm.payload.igvm.is_some(), "IGVM images are for x86 only"),
];

/// Refuses a configuration that asks for what this build does not have.
pub(super) fn refuse_unbuilt(config: &VmConfig) -> Result<(), ConfigError> {
    match REFUSALS.iter().find(|refusal| (refusal.asked)(config)) {
        Some(refusal) => Err(ConfigError::new(refusal.field, Fault::Unsupported(refusal.reason))),
        None => Ok(()),
    }
}
