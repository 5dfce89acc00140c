//! The guest's time: one counter for all vCPUs, which stands still while the guest is a file.
//!
//! A VM's counters are the host's less an offset. `KVM_ARM_SET_COUNTER_OFFSET` (Linux 6.4) gives the virtual and the physical
//! counter one offset, for good. It is set when a machine boots too, so that both count from 0 and the physical one does
//! not step back when the machine is restored. Older kernels only have the virtual counter's, set through a vCPU.

use kvm_bindings::{KVM_CAP_COUNTER_OFFSET, kvm_arm_counter_offset};
use kvm_ioctls::VmFd;
use std::os::fd::AsRawFd;

use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::kvm::{KvmError, doing};
use crate::state::{RegisterId, VcpuState};

/// `KVM_ARM_SET_COUNTER_OFFSET`, `_IOW(0xae, 0xb5, struct kvm_arm_counter_offset)`.
const KVM_ARM_SET_COUNTER_OFFSET: libc::c_ulong = 0x4010_aeb5;

impl Vm {
    /// Starts the counters of a fresh machine at 0.
    ///
    /// # Errors
    /// Where KVM has the capability and refuses.
    pub fn start_counter(&self, vcpus: &[Vcpu]) -> Result<(), KvmError> {
        self.count_from(vcpus, 0)
    }

    /// Has the counters go on from where they were when `saved`, the first vCPU's state, was read.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn restore_counter(&self, vcpus: &[Vcpu], saved: &VcpuState) -> Result<(), KvmError> {
        let count = saved.registers.get_u64(RegisterId::VIRTUAL_COUNT);
        self.count_from(vcpus, count.ok_or(KvmError::Missing("virtual counter"))?)
    }

    fn count_from(&self, vcpus: &[Vcpu], count: u64) -> Result<(), KvmError> {
        let Some(first) = vcpus.first() else { return Ok(()) };
        if self.fd().check_extension_raw(u64::from(KVM_CAP_COUNTER_OFFSET)) <= 0 {
            return first.set_register(RegisterId::VIRTUAL_COUNT.0, count);
        }
        // Without an offset of its own, a vCPU's physical counter is the host's.
        let host = first.register(RegisterId::PHYSICAL_COUNT.0)?;
        set_offset(self.fd(), host.wrapping_sub(count)).map_err(doing("set the guest's counter"))
    }
}

fn set_offset(vm: &VmFd, counter_offset: u64) -> std::io::Result<()> {
    let offset = kvm_arm_counter_offset { counter_offset, reserved: 0 };
    // SAFETY: the kernel reads this structure, and nothing else of ours.
    match unsafe { libc::ioctl(vm.as_raw_fd(), KVM_ARM_SET_COUNTER_OFFSET, std::ptr::from_ref(&offset)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
