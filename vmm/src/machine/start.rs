//! From `main` to the loop: what must happen before the jail closes, in its order.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use granule_jail::{Child, Executable, JailKind, SeccompMode, Spawn, SpawnError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::guest::Host;
use super::mailbox::Mailbox;
use super::signals::TerminationSignals;
use super::turn::{End, Machine};
use crate::wire::Channel;

/// How long `control`, which has already answered its last request, may take to vanish.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// Why the machine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A descriptor named on the command line is not open.
    #[error("descriptor {0} named on the command line is not open")]
    Descriptor(RawFd),
    /// The channel, the mailbox, signals.
    #[error("cannot prepare the machine process")]
    Prepare(#[source] io::Error),
    /// The second process.
    #[error("cannot start the control process")]
    Spawn(#[source] SpawnError),
    /// The jail.
    #[error("cannot enter the machine's jail; --seccomp false leaves the filter out")]
    Jail(#[source] granule_jail::Error),
    /// The loop.
    #[error("the machine's event loop failed")]
    Loop(#[source] event_manager::Error),
}

/// Runs the machine role to its end. `arguments` is the command line as typed, without the program's name;
/// `inherited` are the descriptors it names (`--api-socket fd=N` and the like).
pub fn run(
    arguments: &[OsString],
    inherited: &[RawFd],
    seccomp: SeccompMode,
) -> Result<ExitCode, StartError> {
    let signals = TerminationSignals::capture().map_err(StartError::Prepare)?;
    let mailbox = Mailbox::new().map_err(StartError::Prepare)?;
    let (ours, theirs) = Channel::pair().map_err(StartError::Prepare)?;
    let control = spawn_control(arguments, inherited, &theirs)?;
    drop(theirs);
    // While control makes its socket.
    let host = Host::open();
    let _ = granule_jail::enter(JailKind::Machine, seccomp).map_err(StartError::Jail)?;
    let end = Machine::new(ours, mailbox, signals, host, seccomp).serve().map_err(StartError::Loop)?;
    Ok(part_from(&control, end))
}

/// Starts `control` with the channel as descriptor 3, what the command line names behind it, and a list that tells the
/// numbers apart: `granule control 5,7 …` has our descriptor 5 as its 4 and our 7 as its 5.
fn spawn_control(
    arguments: &[OsString],
    inherited: &[RawFd],
    channel: &Channel,
) -> Result<Child, StartError> {
    let numbers = inherited.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    // Our copies of what is control's close when this returns.
    let inherited = inherited.iter().map(|&number| take_inherited(number)).collect::<Result<Vec<_>, _>>()?;
    let executable = Executable::own().map_err(StartError::Prepare)?;
    let mut spawn = Spawn::new(&executable, "granule-control");
    // A console may lead to the terminal that we were started on, and control is who opens ends of consoles.
    spawn.inherit_input().argument("control").argument(numbers);
    for argument in arguments {
        spawn.argument(argument);
    }
    spawn.descriptor(channel.as_fd());
    for fd in &inherited {
        spawn.descriptor(fd.as_fd());
    }
    spawn.start().map_err(StartError::Spawn)
}

fn take_inherited(number: RawFd) -> Result<OwnedFd, StartError> {
    // SAFETY: F_GETFD reads a flag and is harmless on any number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(StartError::Descriptor(number));
    }
    // SAFETY: the number is open and was inherited: nothing in this process made it, so nothing else owns it. The
    // command line's parser refuses to name a number twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Waits for `control` and derives this process's exit code.
fn part_from(control: &Child, end: End) -> ExitCode {
    let status = ended_within(control, CONTROL_PATIENCE);
    match (end, status.and_then(|status| status.code())) {
        (End::Told(code), _) => ExitCode::from(code),
        // It said why on stderr before it went.
        (End::ControlLost, Some(code)) if code != 0 => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        (End::ControlLost, _) => {
            eprintln!("granule: the control process is gone");
            ExitCode::FAILURE
        }
    }
}

/// Reaps the child if it ends within this time; if not, our own end kills it (PDEATHSIG).
fn ended_within(child: &Child, patience: Duration) -> Option<ExitStatus> {
    let limit = Timespec::try_from(patience).ok()?;
    let mut fds = [PollFd::new(child, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))).ok()?;
    child.try_wait().ok()?
}
