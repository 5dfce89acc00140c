//! The process that moves guest memory with its tags: into a snapshot, or out of one.
//!
//! ```text
//!  start ─► jail ─► one MoverOrder from control ─► SharedMemory from the machine ─► move ─► Saved | Restored | Failed ─► exit
//!                   (files of the snapshot)         (memfds)                        │ ▲
//!                                                                  a live snapshot: Copied ─► Round … Complete
//! ```
//!
//! It is the only process that may map with PROT_MTE, and it makes no call of KVM's, so it cannot wait for a lock that a
//! vCPU holds which waits for it. It lives for one job: it has the files of that job and nothing else, and whatever is
//! left of it is gone with it. What it reads of a snapshot is an allegation until checked; what it reads of the guest it
//! copies and does not interpret.

mod copy;
mod memory;
mod on_demand;
mod progress;
mod restore;
mod save;
#[cfg(target_arch = "aarch64")]
mod tags;
#[cfg(not(target_arch = "aarch64"))]
#[path = "tags_elsewhere.rs"]
mod tags;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use granule_jail::{JailKind, SeccompMode};
use granule_snapshot::memory::MemoryFiles;

use crate::wire::{Channel, ChannelError, Failure, FdSlot, FileSlots, FromMover, MoverOrder, Received};

/// How it is started.
#[derive(Debug, clap::Args)]
pub struct MoverArgs {
    /// The socket of control
    #[arg(long, value_name = "N")]
    fd: RawFd,
    /// What seccomp does with a call that is not on the list: true (kill), log, false (no filter)
    #[arg(long, value_name = "MODE", default_value = "true")]
    seccomp: SeccompMode,
}

/// Why there was no job, or nobody who could be told how it ended.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// A descriptor that is not open.
    #[error("the mover is started by granule itself: descriptor {0} is not open")]
    Descriptor(RawFd),
    /// The jail.
    #[error("cannot enter the mover's jail; --seccomp false leaves the filter out")]
    Jail(#[source] granule_jail::Error),
    /// The socket of control.
    #[error("control cannot be reached")]
    Control(#[source] ChannelError),
}

/// Does one job.
pub fn run(args: &MoverArgs) -> Result<ExitCode, MoverError> {
    let control = Channel::from_fd(take(args.fd)?);
    let _ = granule_jail::enter(JailKind::Mover, args.seccomp).map_err(MoverError::Jail)?;
    let Received { message, fds } = control.receive::<MoverOrder>().map_err(MoverError::Control)?;
    let mut fds = Passed(fds.into_iter().map(Some).collect());
    let result = match message {
        MoverOrder::Save { machine, files, parent, live } => {
            save::save(&save::Job { machine, files, parent, live }, &mut fds, &control)
        }
        MoverOrder::Restore { machine, layers } => restore::restore(machine, &layers, &mut fds, &control),
        MoverOrder::Place { machine, layers, processes } => {
            on_demand::place(machine, &layers, &processes, &mut fds, &control)
        }
        MoverOrder::Round | MoverOrder::Complete => Err(Failure::of("an order without a job")),
    };
    let code = if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let told = result.unwrap_or_else(FromMover::Failed);
    control.send(&told, &[]).map_err(MoverError::Control)?;
    Ok(code)
}

/// The descriptors that came with the order.
struct Passed(Vec<Option<OwnedFd>>);

impl Passed {
    fn take(&mut self, FdSlot(index): FdSlot) -> Result<OwnedFd, Failure> {
        let taken = self.0.get_mut(usize::from(index)).and_then(Option::take);
        taken.ok_or_else(|| Failure::of(&format!("descriptor {index} did not come with the order")))
    }

    fn files(&mut self, slots: FileSlots) -> Result<MemoryFiles<File>, Failure> {
        let FileSlots { memory, pages, tags } = slots;
        Ok(MemoryFiles {
            memory: self.take(memory)?.into(),
            pages: self.take(pages)?.into(),
            tags: tags.map(|slot| self.take(slot)).transpose()?.map(File::from),
        })
    }
}

fn take(number: RawFd) -> Result<OwnedFd, MoverError> {
    // SAFETY: F_GETFD reads a flag and is harmless on any number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(MoverError::Descriptor(number));
    }
    // SAFETY: the number is open and was inherited for us by control; nothing here made it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    debug_assert_eq!(fd.as_raw_fd(), number);
    Ok(fd)
}
