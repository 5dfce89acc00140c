//! Why a vCPU came back from the guest.

use std::io;

use kvm_bindings::{
    KVM_EXIT_ARM_NISV, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTR, KVM_EXIT_MMIO, KVM_EXIT_SYSTEM_EVENT,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_SUSPEND,
    kvm_run,
};
use kvm_ioctls::Error as Errno;
use thiserror::Error;

use crate::layout::Gpa;

/// What the guest, or another thread, wants of the monitor.
#[derive(Debug)]
pub enum Exit<'a> {
    /// A load from where no memory is: the answer goes into `data`, at most 8 bytes.
    MmioRead {
        /// Where.
        address: Gpa,
        /// What the guest will see, little endian.
        data: &'a mut [u8],
    },
    /// A store to where no memory is.
    MmioWrite {
        /// Where.
        address: Gpa,
        /// What the guest stores, little endian, at most 8 bytes.
        data: &'a [u8],
    },
    /// An access to where no memory is by an instruction that the processor does not describe (a pair, a vector,
    /// a tag store…). No device is made for it: [`super::Vcpu::inject_data_abort`] tells the guest.
    Undecodable {
        /// Where.
        address: Gpa,
    },
    /// A store to read-only memory, which has not happened: [`super::Vcpu::inject_data_abort`] tells the guest.
    ReadOnly {
        /// Where.
        address: Gpa,
    },
    /// The guest asks for something by PSCI.
    System(SystemEvent),
    /// [`super::Kick::interrupt`] was called. Loads and stores that were under way are complete, the
    /// registers are what the guest has.
    Interrupted,
}

/// What a guest asks of its firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// `SYSTEM_OFF`.
    Shutdown,
    /// `SYSTEM_RESET`, also where a kernel panics with `panic=1`.
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// `SYSTEM_SUSPEND`; only where the monitor enabled it.
    Suspend,
}

/// Why a vCPU cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// KVM could not give the guest a page of its memory.
    #[error(
        "KVM cannot map a page of guest memory: the memory under a slot went away, or may not be used in a VM with memory \
         tagging"
    )]
    Memory(#[source] io::Error),
    /// The processor refused to enter the guest.
    #[error("the processor refuses to enter the guest (reason {reason:#x} on CPU {cpu})")]
    FailEntry {
        /// As the processor says it.
        reason: u64,
        /// Where.
        cpu: u32,
    },
    /// A reason that KVM has on other processors, or that is newer than this program.
    #[error("KVM left the guest for reason {0}, which this monitor does not know")]
    Unknown(u32),
    /// Anything else.
    #[error("cannot run a vCPU")]
    Run(#[source] io::Error),
}

/// What `KVM_RUN` returned and left in its shared page.
pub(super) fn decode(result: Result<(), Errno>, run: &mut kvm_run) -> Result<Exit<'_>, RunError> {
    if let Err(e) = result {
        return match e.errno() {
            libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
            libc::EFAULT | libc::EHWPOISON => Err(RunError::Memory(e.into())),
            _ => Err(RunError::Run(e.into())),
        };
    }
    match run.exit_reason {
        KVM_EXIT_MMIO => {
            // SAFETY: the exit reason, which the kernel wrote, says which member of the union it filled.
            let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
            let address = Gpa(mmio.phys_addr);
            let length = (mmio.len as usize).min(mmio.data.len());
            let data = &mut mmio.data[..length];
            Ok(if mmio.is_write == 0 {
                Exit::MmioRead { address, data }
            } else {
                Exit::MmioWrite { address, data }
            })
        }
        KVM_EXIT_ARM_NISV => {
            // SAFETY: as above.
            let address = unsafe { run.__bindgen_anon_1.arm_nisv.fault_ipa };
            Ok(Exit::Undecodable { address: Gpa(address) })
        }
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: as above.
            let kind = unsafe { run.__bindgen_anon_1.system_event.type_ };
            system_event(kind).map(Exit::System).ok_or(RunError::Unknown(KVM_EXIT_SYSTEM_EVENT))
        }
        KVM_EXIT_INTR => Ok(Exit::Interrupted),
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: as above.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            Err(RunError::FailEntry { reason: entry.hardware_entry_failure_reason, cpu: entry.cpu })
        }
        other => Err(RunError::Unknown(other)),
    }
}

fn system_event(kind: u32) -> Option<SystemEvent> {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Some(SystemEvent::Shutdown),
        KVM_SYSTEM_EVENT_RESET => Some(SystemEvent::Reset),
        KVM_SYSTEM_EVENT_CRASH => Some(SystemEvent::Crash),
        KVM_SYSTEM_EVENT_SUSPEND => Some(SystemEvent::Suspend),
        _ => None,
    }
}
