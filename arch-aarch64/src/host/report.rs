//! Asks KVM.

use kvm_bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_SVE, KVM_CAP_COUNTER_OFFSET, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_REG_ARM64, KVM_REG_ARM64_SVE, KVM_REG_SIZE_U512, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VmFd};

use super::HostReport;
use super::files::{kernel_release, page_size};
use crate::kvm::{CpuFeatures, usable_ipa_bits};
use crate::mte::{self, ProbeError};

/// The pseudo-register with one bit per vector length of a multiple of 128 bits (`KVM_REG_ARM64_SVE_VLS`).
const SVE_VECTOR_LENGTHS: u64 = KVM_REG_ARM64 | KVM_REG_ARM64_SVE as u64 | KVM_REG_SIZE_U512 | 0xffff;

/// Reports what KVM and the processor offer. Creates scratch VMs and lets them go.
///
/// # Errors
/// Where memory tagging could not be tried out. Everything else that cannot be found out counts as not there.
pub fn report(kvm: &Kvm) -> Result<HostReport, ProbeError> {
    let features = CpuFeatures::of_host(kvm);
    let scratch = kvm.create_vm().ok();
    let device = |kind| scratch.as_ref().is_some_and(|vm| has_device(vm, kind));
    Ok(HostReport {
        kernel: kernel_release(),
        page_size: page_size(),
        kvm_api: kvm.get_api_version(),
        ipa_bits: usable_ipa_bits(kvm, u8::MAX),
        max_vcpus: kvm.get_max_vcpus(),
        mte: mte::probe(kvm)?,
        gicv3: device(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3),
        its: device(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS),
        sve_vector_bits: scratch.as_ref().filter(|_| features.sve).and_then(vector_bits).unwrap_or_default(),
        pointer_auth: features.pointer_auth,
        pmu: features.pmu,
        dirty_ring_bytes: u32::try_from(kvm.check_extension_raw(KVM_CAP_DIRTY_LOG_RING_ACQ_REL.into()))
            .unwrap_or(0),
        counter_offset: kvm.check_extension_raw(KVM_CAP_COUNTER_OFFSET.into()) > 0,
    })
}

fn has_device(vm: &VmFd, kind: u32) -> bool {
    // Really created: KVM can also only be asked, but then leaves no descriptor, and the wrapper would close number 0.
    vm.create_device(&mut kvm_create_device { type_: kind, fd: 0, flags: 0 }).is_ok()
}

fn vector_bits(vm: &VmFd) -> Option<Vec<u32>> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).ok()?;
    target.features[0] = 1 << KVM_ARM_VCPU_PSCI_0_2 | 1 << KVM_ARM_VCPU_SVE;
    let vcpu = vm.create_vcpu(0).ok()?;
    vcpu.vcpu_init(&target).ok()?;
    let mut lengths = [0; 64];
    vcpu.get_one_reg(SVE_VECTOR_LENGTHS, &mut lengths).ok()?;
    let bit = |n: u32| lengths[n as usize / 8] >> (n % 8) & 1 == 1;
    Some((0..512).filter(|&n| bit(n)).map(|n| (n + 1) * 128).collect())
}
