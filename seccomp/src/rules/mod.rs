//! The tables, one per kind: which system calls a jail allows, or for control refuses, and why.
//!
//! A table is put together from groups, so that a call that two kinds need has one reason. Threads of the machine inherit
//! the machine's filter and add their own; a call must pass both, so the machine's table contains its threads' tables.

mod control;
mod device;
mod machine;
mod mover;
mod net;
mod runtime;
mod serial_writer;
#[cfg(test)]
mod tests;
mod vcpu;
mod vsock;

use crate::kind::{DeviceKind, JailKind, Kind, ThreadKind};
use crate::rule::Rule;

/// What a table's lines mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// Only what a line matches is allowed.
    Allow,
    /// What a line matches is refused.
    Refuse,
}

/// The lines of one kind, in the order of their groups.
#[derive(Clone, Debug)]
pub struct Table {
    /// What the lines mean.
    pub sense: Sense,
    /// The lines; no two match the same calls.
    pub rules: Vec<Rule>,
}

impl Table {
    /// Puts together the table of a kind.
    #[must_use]
    pub fn of(kind: impl Into<Kind>) -> Self {
        let groups: &[&[Rule]] = match kind.into() {
            Kind::Process(JailKind::Machine) => &[
                runtime::RUNTIME,
                runtime::SHARING,
                runtime::THREADS,
                runtime::LATE_MEMORY,
                machine::MACHINE,
                vcpu::VCPU,
                serial_writer::SERIAL_WRITER,
                machine::DEADLINE,
                machine::MEMORY_WATCH,
            ],
            Kind::Process(JailKind::Control) => {
                return Self { sense: Sense::Refuse, rules: control::CONTROL.to_vec() };
            }
            Kind::Process(JailKind::Device(DeviceKind::Blk)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::IN_FLIGHT, device::DISK]
            }
            Kind::Process(JailKind::Device(DeviceKind::Rng)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::IN_FLIGHT]
            }
            Kind::Process(JailKind::Mover) => &[runtime::RUNTIME, mover::MOVER],
            Kind::Process(JailKind::Device(DeviceKind::Net)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, net::NET]
            }
            Kind::Process(JailKind::Device(DeviceKind::Pmem)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::PMEM]
            }
            Kind::Process(JailKind::Device(DeviceKind::Vsock)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, vsock::VSOCK]
            }
            Kind::Process(JailKind::Device(DeviceKind::Console)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::CONSOLE]
            }
            Kind::Process(JailKind::Device(DeviceKind::Watchdog)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END]
            }
            Kind::Process(JailKind::Device(DeviceKind::Balloon)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::BALLOON]
            }
            Kind::Process(JailKind::Device(DeviceKind::Mem)) => {
                &[runtime::RUNTIME, runtime::LATE_MEMORY, device::BACK_END, device::IN_FLIGHT, device::MEM]
            }
            Kind::Thread(ThreadKind::Vcpu) => &[runtime::RUNTIME, runtime::SHARING, vcpu::VCPU],
            Kind::Thread(ThreadKind::SerialWriter) => {
                &[runtime::RUNTIME, runtime::SHARING, serial_writer::SERIAL_WRITER]
            }
            Kind::Thread(ThreadKind::Deadline) => &[runtime::RUNTIME, runtime::SHARING, machine::DEADLINE],
            Kind::Thread(ThreadKind::MemoryWatch) => {
                &[runtime::RUNTIME, runtime::SHARING, machine::MEMORY_WATCH]
            }
        };
        let mut rules: Vec<Rule> = Vec::new();
        for rule in groups.iter().copied().flatten() {
            if !rules.iter().any(|known| known.matches_same(rule)) {
                rules.push(*rule);
            }
        }
        Self { sense: Sense::Allow, rules }
    }

    /// What the language's runtime and the C library may do in any process, whatever its work.
    #[must_use]
    pub fn runtime() -> Self {
        Self { sense: Sense::Allow, rules: runtime::RUNTIME.to_vec() }
    }

    /// What a process may do that maps guest memory which is not there yet.
    #[must_use]
    pub fn late_memory() -> Self {
        Self { sense: Sense::Allow, rules: runtime::LATE_MEMORY.to_vec() }
    }

    /// What they may do beyond that where there are several threads.
    #[must_use]
    pub fn threads() -> Self {
        Self { sense: Sense::Allow, rules: [runtime::SHARING, runtime::THREADS].concat() }
    }

    /// Takes one line out, for the test that asks whether anybody needs it.
    ///
    /// Returns nothing when there is no such line, and for a table of refusals: that one would become wider.
    #[must_use]
    pub fn without(mut self, index: usize) -> Option<Self> {
        if self.sense == Sense::Refuse || index >= self.rules.len() {
            return None;
        }
        self.rules.remove(index);
        Some(self)
    }
}
