//! The virtual machine as KVM builds it, in the only order in which memory tagging works.
//!
//! ```text
//!  NewVm ──with_mte | without_mte──► MteDecided ──with_memory──► WithMemory ──with_vcpus──► WithVcpus ──with_gic──► Vm
//!   │                                 │                           │                          │                      │
//!   KVM_CREATE_VM,                    KVM_ENABLE_CAP(MTE)         memslots                   all vCPUs,             GICv3, ITS,
//!   size of the address space         or not                                                 then each one's INIT   then each PMU
//! ```
//!
//! Each arrow consumes what is left of it, so that a wrong order does not compile. It matters: KVM accepts the capability
//! after memslots too, but then does not check the memory under them, and the guest dies of its first touch; after the
//! first vCPU it refuses (docs/kernel-hazards.md).
//!
//! These modules are leaves: they hold the ioctls and no policy.

mod exit;
mod gic;
mod kick;
mod registers;
mod routing;
mod state;
mod vcpu;
mod vm;

pub use exit::{Exit, RunError, SystemEvent};
pub use gic::Gic;
pub use kick::{Attached, Kick, install_kick_handler, kick_signal};
pub use registers::{CoreRegister, SystemRegister};
pub use routing::{MsiGsi, MsiRoute, RoutingError, RoutingTable};
pub use vcpu::{CpuFeatures, Vcpu};
pub use vm::{MteDecided, NewVm, Vm, WithMemory, WithVcpus, usable_ipa_bits};

use std::io;

use thiserror::Error;

use crate::state::RegistersError;

/// Why KVM did not build or change a machine.
#[derive(Debug, Error)]
pub enum KvmError {
    /// An ioctl failed.
    #[error("cannot {doing}")]
    Ioctl {
        /// What was to be done.
        doing: &'static str,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// Not the KVM that this program was written for.
    #[error("/dev/kvm speaks version {0} of its interface, not 12")]
    ApiVersion(i32),
    /// KVM lacks something without which no guest can run.
    #[error("this host's KVM has no {0}")]
    Missing(&'static str),
    /// The capability was asked for on a host that lacks it.
    #[error("cannot turn memory tagging on: this host's processor or KVM has none")]
    NoMte(#[source] io::Error),
    /// A memslot was refused in a VM with memory tagging.
    #[error(
        "KVM refuses the guest memory at {address:#x} in a VM with memory tagging: it must be a memfd or anonymous, not \
         huge pages, and before Linux 6.2 not shared"
    )]
    MemoryNotTaggable {
        /// Its guest physical address.
        address: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A saved device lacks a register.
    #[error("the saved state of {what} lacks register {register:#x}")]
    State {
        /// Which device.
        what: &'static str,
        /// Which register.
        register: u32,
    },
    /// Saved registers are not those of a vCPU of this host.
    #[error("the registers of vCPU {vcpu} cannot be restored on this host")]
    Registers {
        /// Which vCPU.
        vcpu: u8,
        /// What does not fit.
        #[source]
        source: RegistersError,
    },
    /// KVM refuses a saved value.
    #[error("register {id:#x} of vCPU {vcpu} cannot be restored on this host")]
    Register {
        /// Which vCPU.
        vcpu: u8,
        /// Which register, as KVM numbers them.
        id: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The saved vCPUs have other vectors.
    #[error("the saved vCPUs have vector lengths that this host cannot give")]
    VectorLengths,
    /// A memslot was refused.
    #[error("KVM refuses the guest memory at {address:#x}")]
    Memory {
        /// Its guest physical address.
        address: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names the operation that an ioctl was part of.
fn doing<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> KvmError {
    move |source| KvmError::Ioctl { doing, source: source.into() }
}
