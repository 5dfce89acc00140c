//! The numbers by which `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` know registers.

use std::mem::offset_of;

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_regs, user_pt_regs};

use crate::state::RegisterId;

/// A register of the core set, 64 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreRegister(u64);

impl CoreRegister {
    /// The program counter.
    pub const PC: Self = Self(offset_of!(kvm_regs, regs) as u64 + offset_of!(user_pt_regs, pc) as u64);
    /// The processor state.
    pub const PSTATE: Self =
        Self(offset_of!(kvm_regs, regs) as u64 + offset_of!(user_pt_regs, pstate) as u64);

    /// The general register with this number, 0 to 30.
    ///
    /// # Panics
    /// For a number that no general register has.
    #[must_use]
    pub const fn x(number: u8) -> Self {
        assert!(number <= 30, "there are x0 to x30");
        Self((offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs)) as u64 + number as u64 * 8)
    }

    /// The number that KVM knows.
    #[must_use]
    pub const fn id(self) -> u64 {
        // Offsets are counted in units of 32 bits.
        KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (self.0 / 4)
    }
}

/// A system register by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemRegister(RegisterId);

impl SystemRegister {
    /// What the processor can do, second word; bits 8 to 11 are memory tagging.
    pub const ID_AA64PFR1_EL1: Self = Self::new(3, 0, 0, 4, 1);
    /// Affinity, the name of a CPU.
    pub const MPIDR_EL1: Self = Self::new(3, 0, 0, 0, 5);
    /// Translation and tagging control.
    pub const SCTLR_EL1: Self = Self::new(3, 0, 1, 0, 0);
    /// Translation control.
    pub const TCR_EL1: Self = Self::new(3, 0, 2, 0, 2);
    /// The table of the lower address range.
    pub const TTBR0_EL1: Self = Self::new(3, 0, 2, 0, 0);
    /// What kinds of memory the tables name.
    pub const MAIR_EL1: Self = Self::new(3, 0, 10, 2, 0);
    /// Where exceptions go.
    pub const VBAR_EL1: Self = Self::new(3, 0, 12, 0, 0);
    /// The seed of random tags.
    pub const RGSR_EL1: Self = Self::new(3, 0, 1, 0, 5);
    /// Which tags `IRG` leaves out.
    pub const GCR_EL1: Self = Self::new(3, 0, 1, 0, 6);
    /// Asynchronous tag faults, EL1.
    pub const TFSR_EL1: Self = Self::new(3, 0, 5, 6, 0);
    /// Asynchronous tag faults, EL0.
    pub const TFSRE0_EL1: Self = Self::new(3, 0, 5, 6, 1);

    /// The register with this encoding.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(RegisterId::system(op0 as u64, op1 as u64, crn as u64, crm as u64, op2 as u64))
    }

    /// The number that KVM knows.
    #[must_use]
    pub const fn id(self) -> u64 {
        self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_interface() {
        assert_eq!(CoreRegister::x(0).id(), 0x6030_0000_0010_0000);
        assert_eq!(CoreRegister::PC.id(), 0x6030_0000_0010_0040);
        assert_eq!(CoreRegister::PSTATE.id(), 0x6030_0000_0010_0042);
        assert_eq!(SystemRegister::TFSR_EL1.id(), 0x6030_0000_0013_c2b0);
        assert_eq!(SystemRegister::GCR_EL1.id(), 0x6030_0000_0013_c086);
    }
}
