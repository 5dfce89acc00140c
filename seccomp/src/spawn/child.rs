//! A started process, held by a descriptor that can never name another one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// A child process. Dropping it neither kills nor reaps it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// Takes a child that has not been waited for yet, so that its pid is its own.
    pub(super) fn adopt(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Its pid, for reports; signals and waits go by the descriptor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it; one that has ended already is fine. The machine cannot do this from inside its jail: its own end does.
    ///
    /// # Errors
    /// Where the kernel refuses: the child runs as another user, or as part of a jail that we are not in.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// Where it has been reaped before.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        let ended = rustix::io::retry_on_intr(|| self.waitid(WaitIdOptions::EXITED))?;
        ended.map(exit_status).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Reaps it if it has ended. [`Child::as_fd`] is readable from then on, so an event loop can tell.
    ///
    /// # Errors
    /// Where it has been reaped before.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        Ok(self.waitid(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?.map(exit_status))
    }

    fn waitid(&self, options: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
        rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
    }
}

/// The pidfd: readable once the child has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// As `wait(2)` encodes it: exit code in the second byte, signal in the first.
fn exit_status(status: WaitIdStatus) -> ExitStatus {
    let code = status.exit_status().map(|code| (code & 0xff) << 8);
    ExitStatus::from_raw(code.or_else(|| status.terminating_signal()).unwrap_or_default())
}
