//! Interrupt controller and translation service as they are saved: offsets of registers, and their values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A GICv3 without its ITS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GicState {
    /// The distributor's registers.
    pub distributor: BTreeMap<u32, u32>,
    /// The levels of shared interrupts from number 32 on, one bit each.
    pub levels: Vec<u32>,
    /// What each vCPU has, in order.
    pub processors: Vec<ProcessorState>,
}

/// The part of the GIC that belongs to one vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessorState {
    /// The redistributor's registers.
    pub redistributor: BTreeMap<u32, u32>,
    /// The CPU interface's registers, by their encodings.
    pub interface: BTreeMap<u32, u64>,
    /// The levels of private interrupts, one bit each.
    pub levels: u32,
}

/// The translation service. Its tables are in guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItsState {
    /// Its registers.
    pub registers: BTreeMap<u32, u64>,
}
