//! A vCPU's registers by their numbers, and the order in which KVM accepts them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// `KVM_REG_SIZE_SHIFT`: bits 52 to 55 are the logarithm of the register's bytes.
const SIZE_SHIFT: u32 = 52;
/// The widest register that there is: a vector of 2048 bits.
const MAX_BYTES: usize = 256;
/// A vCPU has some hundred registers.
const MAX_REGISTERS: usize = 4096;

/// What is written to a register that clears another.
const ALL_ONES: [u8; 8] = [0xff; 8];

/// Bits 16 to 27: the kind of register (`KVM_REG_ARM_COPROC_MASK`).
const KIND_SHIFT: u32 = 16;
const KIND_SYSTEM: u64 = 0x13;
const KIND_FIRMWARE: u64 = 0x14;
const KIND_SVE: u64 = 0x15;
const KIND_FIRMWARE_FEATURES: u64 = 0x16;

/// The number by which KVM knows a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterId(pub u64);

impl RegisterId {
    /// `KVM_REG_ARM64_SVE_VLS`: which vector lengths the guest has; set before the vCPU is finalized.
    pub const VECTOR_LENGTHS: Self = Self(0x6060_0000_0015_ffff);
    /// `KVM_REG_ARM_TIMER_CNT`: the guest's virtual counter. Its encoding is that of the compare value: the kernel's
    /// interface has the two swapped, for good.
    pub const VIRTUAL_COUNT: Self = Self::system(3, 3, 14, 3, 2);
    /// `KVM_REG_ARM_TIMER_CVAL`, as above.
    pub const VIRTUAL_COMPARE: Self = Self::system(3, 3, 14, 0, 2);
    /// `KVM_REG_ARM_TIMER_CTL`.
    pub const VIRTUAL_CONTROL: Self = Self::system(3, 3, 14, 3, 1);
    /// `KVM_REG_ARM_PTIMER_CNT`: the physical counter; the host's own while the VM has no offset.
    pub const PHYSICAL_COUNT: Self = Self::system(3, 3, 14, 0, 1);
    /// `KVM_REG_ARM_PTIMER_CVAL`.
    pub const PHYSICAL_COMPARE: Self = Self::system(3, 3, 14, 2, 2);
    /// `KVM_REG_ARM_PTIMER_CTL`.
    pub const PHYSICAL_CONTROL: Self = Self::system(3, 3, 14, 2, 1);

    /// PMINTENCLR_EL1, PMCNTENCLR_EL0, PMOVSCLR_EL0: each clears in another register the bits that are written to it.
    const CLEARING: [Self; 3] =
        [Self::system(3, 0, 9, 14, 2), Self::system(3, 3, 9, 12, 2), Self::system(3, 3, 9, 12, 3)];

    /// A 64-bit system register by its encoding.
    #[must_use]
    pub const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> Self {
        Self(0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// Bytes of the register, or nothing for a number that is none.
    #[must_use]
    pub fn bytes(self) -> Option<usize> {
        let bytes = 1usize << (self.0 >> SIZE_SHIFT & 0xf);
        (bytes <= MAX_BYTES).then_some(bytes)
    }

    fn kind(self) -> u64 {
        self.0 >> KIND_SHIFT & 0xfff
    }

    /// Whether it says what the processor is: op0 3, op1 0, CRn 0, CRm 1 to 7, and the few beside them.
    fn identifies(self) -> bool {
        let encoding = self.0 & 0xffff;
        let (op0, op1, crn) = (encoding >> 14, encoding >> 11 & 7, encoding >> 7 & 15);
        self.kind() == KIND_SYSTEM && op0 == 3 && crn == 0 && matches!(op1, 0 | 1 | 3)
    }

    /// When the register is set.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self.kind() {
            KIND_SVE if self == Self::VECTOR_LENGTHS => Phase::BeforeFinalizing,
            KIND_FIRMWARE | KIND_FIRMWARE_FEATURES => Phase::Firmware,
            _ if self.identifies() => Phase::Identity,
            _ if Self::CLEARING.contains(&self) => Phase::Clearing,
            _ if self == Self::VIRTUAL_COUNT || self == Self::PHYSICAL_COUNT => Phase::Counter,
            _ if self == Self::VIRTUAL_CONTROL || self == Self::PHYSICAL_CONTROL => Phase::TimerControl,
            _ => Phase::Rest,
        }
    }
}

/// The order of setting. Identity first, because the kernel derives from it what the others may hold; a timer's control
/// last, so that it does not fire on a compare value that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Vector lengths: before the vCPU is finalized, which shows the vector registers.
    BeforeFinalizing,
    /// What the processor is. Cannot change once the guest has run.
    Identity,
    /// What the firmware offers; the same.
    Firmware,
    /// Registers that clear others, which may hold anything after a reset: all ones are written to them.
    Clearing,
    /// The counters: one for the whole VM, so they are set for the VM and not with the others.
    Counter,
    /// All others.
    Rest,
    /// The timers' control registers.
    TimerControl,
}

/// Why saved registers are not those of a vCPU here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RegistersError {
    /// A number or value that no register has.
    #[error("a saved register {id:#x} of {bytes} bytes is none")]
    NoRegister {
        /// The number.
        id: u64,
        /// The value's length.
        bytes: usize,
    },
    /// In the snapshot and not here.
    #[error("the saved vCPU has a register {0:#x} that vCPUs on this host lack")]
    Foreign(u64),
    /// Here and not in the snapshot.
    #[error("vCPUs on this host have a register {0:#x} that the saved one lacks")]
    Missing(u64),
}

/// Registers and their values, little-endian bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers(BTreeMap<RegisterId, Vec<u8>>);

impl Registers {
    /// Adds one, or replaces its value.
    pub fn insert(&mut self, id: RegisterId, value: Vec<u8>) {
        self.0.insert(id, value);
    }

    /// The value of a register.
    #[must_use]
    pub fn get(&self, id: RegisterId) -> Option<&[u8]> {
        self.0.get(&id).map(Vec::as_slice)
    }

    /// The value of a register of 64 bits.
    #[must_use]
    pub fn get_u64(&self, id: RegisterId) -> Option<u64> {
        Some(u64::from_le_bytes(self.get(id)?.try_into().ok()?))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that these are exactly the registers that a vCPU here has, each of its width.
    ///
    /// # Errors
    /// At the first that is not.
    pub fn check(&self, here: &[RegisterId]) -> Result<(), RegistersError> {
        for (id, value) in &self.0 {
            if id.bytes() != Some(value.len()) {
                return Err(RegistersError::NoRegister { id: id.0, bytes: value.len() });
            }
            if !here.contains(id) {
                return Err(RegistersError::Foreign(id.0));
            }
        }
        match here.iter().find(|id| !self.0.contains_key(id)) {
            Some(id) => Err(RegistersError::Missing(id.0)),
            None => Ok(()),
        }
    }

    /// All of them in the order of setting, without what is set before a vCPU is finalized and without the counters.
    pub fn in_order(&self) -> impl Iterator<Item = (RegisterId, &[u8])> {
        let phases = [Phase::Identity, Phase::Firmware, Phase::Clearing, Phase::Rest, Phase::TimerControl];
        phases.into_iter().flat_map(|phase| {
            let of_phase = self.0.iter().filter(move |(id, _)| id.phase() == phase);
            of_phase.map(move |(id, value)| match phase {
                Phase::Clearing => (*id, ALL_ONES.as_slice()),
                _ => (*id, value.as_slice()),
            })
        })
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        serializer.collect_map(self.0.iter().map(|(id, value)| (format!("{:016x}", id.0), hex(value))))
    }
}

impl<'de> Deserialize<'de> for Registers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let error = <D::Error as serde::de::Error>::custom;
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        if texts.len() > MAX_REGISTERS {
            return Err(error("too many registers"));
        }
        let one = |(id, value): (String, String)| {
            let id = u64::from_str_radix(&id, 16).ok().filter(|_| id.len() == 16)?;
            Some((RegisterId(id), bytes(&value)?))
        };
        let all: Option<BTreeMap<_, _>> = texts.into_iter().map(one).collect();
        all.map(Self)
            .ok_or_else(|| error("expected hexadecimal digits: 16 of a number, at most 512 of a value"))
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let value = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    if !odd.is_empty() || pairs.len() > MAX_BYTES {
        return None;
    }
    pairs.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X0: RegisterId = RegisterId(0x6030_0000_0010_0000);
    const Z0: RegisterId = RegisterId(0x6080_0000_0015_0000);
    const PSCI_VERSION: RegisterId = RegisterId(0x6030_0000_0014_0000);
    const PFR1: RegisterId = RegisterId::system(3, 0, 0, 4, 1);
    const GCR: RegisterId = RegisterId::system(3, 0, 1, 0, 6);

    #[test]
    fn numbers_are_those_of_the_kernel_interface() {
        assert_eq!(GCR.0, 0x6030_0000_0013_c086);
        // uapi/asm/kvm.h: ARM64_SYS_REG(3, 3, 14, 3, 2) is the counter.
        assert_eq!(RegisterId::VIRTUAL_COUNT.0, 0x6030_0000_0013_df1a);
        assert_eq!((X0.bytes(), Z0.bytes()), (Some(8), Some(256)));
        assert_eq!(RegisterId::VECTOR_LENGTHS.bytes(), Some(64));
        assert_eq!(RegisterId(0xf << 52).bytes(), None);
    }

    #[test]
    fn identity_comes_first_and_timer_controls_last() {
        let mut registers = Registers::default();
        for id in [X0, GCR, RegisterId::VIRTUAL_CONTROL, RegisterId::VIRTUAL_COMPARE, PFR1, PSCI_VERSION] {
            registers.insert(id, vec![1; 8]);
        }
        registers.insert(RegisterId::VIRTUAL_COUNT, vec![0; 8]);
        registers.insert(RegisterId::VECTOR_LENGTHS, vec![0; 64]);
        let order: Vec<_> = registers.in_order().map(|(id, _)| id).collect();
        assert_eq!(order.len(), registers.len() - 2, "counter and vector lengths are set otherwise");
        assert_eq!(order[..2], [PFR1, PSCI_VERSION]);
        assert_eq!(order.last(), Some(&RegisterId::VIRTUAL_CONTROL));
    }

    #[test]
    fn what_clears_comes_before_what_it_clears() {
        let (clear, set) = (RegisterId::system(3, 0, 9, 14, 2), RegisterId::system(3, 0, 9, 14, 1));
        let mut registers = Registers::default();
        registers.insert(set, vec![6, 0, 0, 0, 0, 0, 0, 0]);
        registers.insert(clear, vec![6, 0, 0, 0, 0, 0, 0, 0]);
        let order: Vec<_> = registers.in_order().collect();
        assert_eq!(order, [(clear, [0xff; 8].as_slice()), (set, &[6, 0, 0, 0, 0, 0, 0, 0])]);
    }

    #[test]
    fn registers_that_are_not_those_of_this_host_are_refused_by_number() {
        let mut registers = Registers::default();
        registers.insert(X0, vec![0; 8]);
        assert_eq!(registers.check(&[X0]), Ok(()));
        assert_eq!(registers.check(&[X0, GCR]), Err(RegistersError::Missing(GCR.0)));
        assert_eq!(registers.check(&[]), Err(RegistersError::Foreign(X0.0)));
        registers.insert(X0, vec![0; 4]);
        assert_eq!(registers.check(&[X0]), Err(RegistersError::NoRegister { id: X0.0, bytes: 4 }));
    }

    #[test]
    fn they_are_hexadecimal_text_and_read_back() {
        let mut registers = Registers::default();
        registers.insert(X0, vec![0x12, 0xab, 0, 0, 0, 0, 0, 0xff]);
        let json = serde_json::to_string(&registers).unwrap();
        assert_eq!(json, r#"{"6030000000100000":"12ab0000000000ff"}"#);
        assert_eq!(serde_json::from_str::<Registers>(&json).unwrap(), registers);
        let long = format!(r#"{{"6030000000100000":"{}"}}"#, "00".repeat(257));
        for bad in [r#"{"603":"00"}"#, r#"{"6030000000100000":"0"}"#, r#"{"6030000000100000":"zz"}"#, &long] {
            assert!(serde_json::from_str::<Registers>(bad).is_err(), "{bad}");
        }
    }
}
