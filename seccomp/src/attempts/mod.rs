//! What an intruder would try from inside a jail: one system call each, so that a test can say for every one that it is
//! refused, and by what.
//!
//! Nothing here does harm where it succeeds: descriptors leak, a forked child ends at once, a peer is sent signal 0.
//! The peer is the process's parent.

mod list;
mod sys;

use std::io;

pub use list::ALL;
pub use sys::{Tools, provoke};

use crate::kind::{JailKind, Kind, SeccompMode};
use crate::report::JailReport;

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What is tried, as in "a vCPU thread tries to …".
    pub name: &'static str,
    run: fn(&Tools) -> io::Result<()>,
    /// What seccomp makes of it in a process, or thread, whose table lists what is allowed.
    confined: Verdict,
    /// Whether control's table of refusals has it.
    refused_to_control: bool,
    /// What refuses it in a confined process where seccomp is off.
    beneath: Beneath,
}

/// What seccomp does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// SIGSYS.
    Kill,
    /// ENOSYS where threads are started, SIGSYS elsewhere.
    Enosys,
    /// SIGSYS, but in the machine, which needs the call.
    KillButInMachine,
    /// SIGSYS, but in the mover, which needs the call.
    KillButInMover,
}

/// What holds without seccomp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beneath {
    Nothing,
    /// Landlock, from this ABI on.
    Landlock(u32, i32),
    /// Landlock's signal scope, which devices and the mover have.
    SignalScope,
    /// PR_SET_MDWE.
    Mdwe,
}

/// What is to become of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// SIGSYS ends the process.
    Killed,
    /// The call answers this error and the process goes on.
    Errno(i32),
    /// Nothing in force refuses it: it succeeds, or fails for lack of rights or of what it needs.
    Either,
}

impl Attempt {
    /// Makes the attempt; returning at all means that seccomp did not kill.
    ///
    /// # Errors
    /// What the system call answers.
    pub fn make(&self, tools: &Tools) -> io::Result<()> {
        (self.run)(tools)
    }

    /// What is to become of it in a jail that reports itself like this.
    #[must_use]
    pub fn expected(&self, kind: Kind, report: &JailReport) -> Expected {
        let control = kind == JailKind::Control.into();
        let machine = kind == JailKind::Machine.into();
        let mover = kind == JailKind::Mover.into();
        let scoped = matches!(kind, Kind::Process(JailKind::Device(_) | JailKind::Mover));
        match (report.seccomp, self.confined, self.beneath) {
            (SeccompMode::Log, ..) => Expected::Either,
            (SeccompMode::Enforce, ..) if control && self.refused_to_control => Expected::Killed,
            (..) if control => Expected::Either,
            (SeccompMode::Enforce, Verdict::Enosys, _) if machine => Expected::Errno(libc::ENOSYS),
            (SeccompMode::Enforce, Verdict::KillButInMachine, _) if machine => Expected::Either,
            (SeccompMode::Enforce, Verdict::KillButInMover, _) if mover => Expected::Either,
            (SeccompMode::Enforce, ..) => Expected::Killed,
            (SeccompMode::Off, _, Beneath::Landlock(abi, errno)) if report.landlock_abi >= abi => {
                Expected::Errno(errno)
            }
            (SeccompMode::Off, _, Beneath::SignalScope) if scoped && report.landlock_abi >= 6 => {
                Expected::Errno(libc::EPERM)
            }
            (SeccompMode::Off, _, Beneath::Mdwe) if report.mdwe => Expected::Errno(libc::EACCES),
            (SeccompMode::Off, ..) => Expected::Either,
        }
    }
}
