//! What the Arm part of a machine remembers, as it is saved: plain types that know nothing of KVM.
//!
//! ```text
//!   Vcpu ──save──► VcpuState ─┐                                ┌─► WithMemory::with_restored_vcpus (vector lengths, INIT)
//!   Gic  ──save──► GicState  ─┼─► state.json ─► checked here ──┼─► GIC, then ITS, whose tables are in guest memory
//!   ITS  ──save──► ItsState  ─┘                                └─► registers in the order of [`registers::Phase`]
//! ```
//!
//! Numbers are those of the kernel's interface. What comes back from a file is an allegation: it is compared with what this
//! kernel's machine has before anything of it is set.

mod gic;
mod registers;
mod vcpu;

pub use gic::{GicState, ItsState, ProcessorState};
pub use registers::{Phase, RegisterId, Registers, RegistersError};
pub use vcpu::{Events, Power, VcpuState};
