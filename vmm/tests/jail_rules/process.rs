//! A process of ours with descriptors of our choice, and one line of its table left out.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use granule_jail::DROP_RULE;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Whatever takes longer hangs; generous for an emulated machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The first number that a passed descriptor has: above all that this process ever has open.
pub const FIRST: RawFd = 400;

/// Why the work could not be done.
#[derive(Debug)]
pub struct Failed;

/// A pair of connected sockets whose messages stay apart.
pub fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Starts `granule` with descriptors at [`FIRST`] and after it.
pub fn start(arguments: &[String], passed: Vec<OwnedFd>, dropped: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_granule"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(dropped) = dropped {
        command.env(DROP_RULE, dropped);
    }
    let pairs: Vec<_> = passed.iter().map(AsRawFd::as_raw_fd).zip(FIRST..).collect();
    // SAFETY: dup2 is async-signal-safe; every source is open until the child has been made.
    unsafe {
        command.pre_exec(move || {
            let placed = pairs.iter().all(|&(from, to)| libc::dup2(from, to) == to);
            placed.then_some(()).ok_or_else(std::io::Error::last_os_error)
        });
    }
    let child = command.spawn().unwrap();
    // Else their other ends would not hear of the process's end.
    drop(passed);
    child
}

/// Looks until `look` finds something, or the process is dead.
pub fn until<T>(child: &mut Child, mut look: impl FnMut() -> Option<T>) -> Result<T, Failed> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(found) = look() {
            return Ok(found);
        }
        if child.try_wait().unwrap().is_some() {
            return Err(Failed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // It hangs, and nobody would end it.
    child.kill().unwrap();
    Err(Failed)
}
