//! One vCPU as it is saved.

use serde::{Deserialize, Serialize};

use super::registers::Registers;

/// A vCPU between two instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// Every register that KVM names.
    pub registers: Registers,
    /// Whether it runs.
    pub power: Power,
    /// What is to happen to it.
    pub events: Events,
}

/// The power state of a vCPU (PSCI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// On, though perhaps waiting for an interrupt.
    On,
    /// Off, until another vCPU turns it on.
    Off,
    /// Suspended, until an interrupt wakes it.
    Suspended,
}

/// Exceptions that a vCPU has yet to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// A system error is pending.
    pub serror: bool,
    /// With this syndrome, where one was given.
    pub serror_syndrome: Option<u64>,
}
