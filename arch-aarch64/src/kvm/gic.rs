//! The interrupt controller, a GICv3 with one ITS, both in the kernel.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::{KvmError, doing};
use crate::irq::GIC_INTERRUPTS;
use crate::layout::{GIC_DISTRIBUTOR, GIC_ITS, Layout};

/// GIC and ITS of a VM. Dropping it does not take them out of the VM: KVM keeps them.
#[derive(Debug)]
pub struct Gic {
    device: DeviceFd,
    its: DeviceFd,
}

impl Gic {
    /// Creates both for a VM that has all its vCPUs.
    pub(super) fn create(vm: &VmFd, layout: &Layout) -> Result<Self, KvmError> {
        let device = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)
            .map_err(doing("create a GICv3 (does the host have one?)"))?;
        set(&device, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &GIC_INTERRUPTS)
            .map_err(doing("set the GIC's number of interrupts"))?;
        let distributor = GIC_DISTRIBUTOR.base().0;
        set(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor)
            .map_err(doing("place the GIC's distributor"))?;
        // Region 0 holds all: bits 63 to 52 count, bits 51 to 16 are the address.
        let redistributors = u64::from(layout.vcpus()) << 52 | layout.redistributors().base().0;
        set(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, &redistributors)
            .map_err(doing("place the GIC's redistributors"))?;
        init(&device).map_err(doing("start the GIC"))?;

        let its = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS).map_err(doing("create an ITS"))?;
        set(&its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, &GIC_ITS.base().0)
            .map_err(doing("place the ITS"))?;
        init(&its).map_err(doing("start the ITS"))?;
        Ok(Self { device, its })
    }

    /// KVM's file of the GIC.
    #[must_use]
    pub fn device(&self) -> &DeviceFd {
        &self.device
    }

    /// KVM's file of the ITS.
    #[must_use]
    pub fn its(&self) -> &DeviceFd {
        &self.its
    }
}

fn create(vm: &VmFd, kind: u32) -> Result<DeviceFd, kvm_ioctls::Error> {
    vm.create_device(&mut kvm_create_device { type_: kind, fd: 0, flags: 0 })
}

fn set<T>(device: &DeviceFd, group: u32, attribute: u32, value: &T) -> Result<(), kvm_ioctls::Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr: u64::from(attribute),
        addr: std::ptr::from_ref(value) as u64,
        flags: 0,
    })
}

fn init(device: &DeviceFd) -> Result<(), kvm_ioctls::Error> {
    device.set_device_attr(&kvm_device_attr {
        group: KVM_DEV_ARM_VGIC_GRP_CTRL,
        attr: u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT),
        addr: 0,
        flags: 0,
    })
}
