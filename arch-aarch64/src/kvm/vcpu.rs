//! One vCPU: features, boot registers, run.

use std::sync::Arc;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ,
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, kvm_device_attr, kvm_vcpu_events, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use super::exit::{self, Exit, RunError};
use super::kick::Kick;
use super::registers::{CoreRegister, SystemRegister};
use super::state::Restoring;
use super::vm::Core;
use super::{KvmError, doing};
use crate::boot::BootRegisters;
use crate::irq::PMU_PPI;
use crate::state::RegisterId;

/// What guests get beyond the base architecture. Memory tagging is the VM's matter, not a vCPU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFeatures {
    /// Scalable vectors, at all lengths that the host has.
    pub sve: bool,
    /// Pointer authentication, of addresses and generic.
    pub pointer_auth: bool,
    /// Performance counters.
    pub pmu: bool,
}

impl CpuFeatures {
    /// Everything that this host's KVM can give.
    #[must_use]
    pub fn of_host(kvm: &Kvm) -> Self {
        Self {
            sve: kvm.check_extension(Cap::ArmSve),
            pointer_auth: kvm.check_extension(Cap::ArmPtrAuthAddress)
                && kvm.check_extension(Cap::ArmPtrAuthGeneric),
            pmu: kvm.check_extension(Cap::ArmPmuV3),
        }
    }

    fn bits(self) -> u32 {
        let mut bits = 1 << KVM_ARM_VCPU_PSCI_0_2;
        if self.sve {
            bits |= 1 << KVM_ARM_VCPU_SVE;
        }
        if self.pointer_auth {
            bits |= 1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC;
        }
        if self.pmu {
            bits |= 1 << KVM_ARM_VCPU_PMU_V3;
        }
        bits
    }
}

/// One vCPU. It runs on the thread that calls [`Vcpu::run`]; other threads reach it through its [`Kick`].
pub struct Vcpu {
    fd: VcpuFd,
    index: u8,
    features: Option<CpuFeatures>,
    kick: Arc<Kick>,
    // Keeps the memory of the guest mapped for as long as it can run.
    core: Arc<Core>,
}

impl Vcpu {
    pub(super) fn create(core: Arc<Core>, index: u8) -> Result<Self, KvmError> {
        let fd = core.fd.create_vcpu(u64::from(index)).map_err(doing("create a vCPU"))?;
        let kick = Kick::new(&fd).map_err(doing("map a vCPU's control page"))?;
        Ok(Self { fd, index, features: None, kick: Arc::new(kick), core })
    }

    pub(super) fn init(
        &mut self,
        features: CpuFeatures,
        restoring: Option<Restoring<'_>>,
    ) -> Result<(), KvmError> {
        let mut target = kvm_vcpu_init::default();
        self.core.fd.get_preferred_target(&mut target).map_err(doing("ask KVM for its preferred CPU"))?;
        target.features[0] = features.bits();
        if self.index != 0 {
            target.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        self.fd.vcpu_init(&target).map_err(doing("initialise a vCPU"))?;
        if features.sve {
            if let Some(lengths) = restoring.and_then(|restoring| restoring.vector_lengths) {
                self.fd
                    .set_one_reg(RegisterId::VECTOR_LENGTHS.0, lengths)
                    .map_err(|_| KvmError::VectorLengths)?;
            }
            // Finalizing with the vector lengths as KVM set them gives the guest all of the host's.
            self.fd
                .vcpu_finalize(&(KVM_ARM_VCPU_SVE as i32))
                .map_err(doing("fix a vCPU's vector lengths"))?;
        }
        self.features = Some(features);
        Ok(())
    }

    /// The PMU's interrupt, then the PMU; both after the interrupt controller.
    pub(super) fn start_pmu(&self) -> Result<(), KvmError> {
        if !self.features.is_some_and(|f| f.pmu) {
            return Ok(());
        }
        let intid = PMU_PPI.intid();
        let attribute = |attr: u32, addr| kvm_device_attr {
            group: KVM_ARM_VCPU_PMU_V3_CTRL,
            attr: u64::from(attr),
            addr,
            flags: 0,
        };
        self.fd
            .set_device_attr(&attribute(KVM_ARM_VCPU_PMU_V3_IRQ, std::ptr::from_ref(&intid) as u64))
            .map_err(doing("connect a PMU's interrupt"))?;
        self.fd.set_device_attr(&attribute(KVM_ARM_VCPU_PMU_V3_INIT, 0)).map_err(doing("start a PMU"))
    }

    /// The number by which KVM, the device tree and the thread's name know it.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The way to interrupt it from another thread.
    #[must_use]
    pub fn kick(&self) -> &Arc<Kick> {
        &self.kick
    }

    /// KVM's file of this vCPU: registers, events.
    #[must_use]
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Sets what the kernel wants to find on its first CPU.
    ///
    /// # Errors
    /// Where KVM refuses, which it does not before the first run.
    pub fn set_boot_registers(&self, registers: &BootRegisters) -> Result<(), KvmError> {
        for (register, value) in [
            (CoreRegister::PSTATE, registers.pstate),
            (CoreRegister::PC, registers.pc),
            (CoreRegister::x(0), registers.x0),
        ] {
            self.set_register(register.id(), value)?;
        }
        Ok(())
    }

    /// A 64-bit register.
    ///
    /// # Errors
    /// Where the vCPU has no such register.
    pub fn register(&self, id: u64) -> Result<u64, KvmError> {
        let mut bytes = [0; 8];
        self.fd.get_one_reg(id, &mut bytes).map_err(doing("read a vCPU's register"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Sets a 64-bit register.
    ///
    /// # Errors
    /// Where the vCPU has no such register or it cannot have this value.
    pub fn set_register(&self, id: u64, value: u64) -> Result<(), KvmError> {
        self.fd.set_one_reg(id, &value.to_le_bytes()).map_err(doing("set a vCPU's register"))?;
        Ok(())
    }

    /// The level of memory tagging that the guest sees, `ID_AA64PFR1_EL1.MTE`: 0 none, 1 instructions only, 2 tags,
    /// 3 tags and asymmetric checks.
    ///
    /// # Errors
    /// Where the register cannot be read.
    pub fn mte_level(&self) -> Result<u8, KvmError> {
        let value = self.register(SystemRegister::ID_AA64PFR1_EL1.id())?;
        Ok((value >> 8 & 0xf) as u8)
    }

    /// Runs the guest on this thread until something needs the monitor.
    ///
    /// The data of an MMIO read must be filled in before the next call, which gives it to the guest.
    ///
    /// # Errors
    /// Where the guest cannot go on.
    pub fn run(&mut self) -> Result<Exit<'_>, RunError> {
        let result = self.fd.run().map(|_| ());
        match exit::decode(result, self.fd.get_kvm_run())? {
            Exit::MmioWrite { address, .. } if self.core.is_read_only(address) => {
                Ok(Exit::ReadOnly { address })
            }
            exit => Ok(exit),
        }
    }

    /// Gives the guest a synchronous external abort for the access that it made last: it is told, at that
    /// instruction, that there is nothing there or that it may not write.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn inject_data_abort(&self) -> Result<(), KvmError> {
        let mut events = kvm_vcpu_events::default();
        events.exception.ext_dabt_pending = 1;
        self.fd.set_vcpu_events(&events).map_err(doing("inject a data abort"))
    }
}

impl std::fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpu").field("index", &self.index).finish_non_exhaustive()
    }
}
