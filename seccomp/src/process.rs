//! What every process of ours does first, before it reads an argument.
//!
//! | what | why |
//! |---|---|
//! | exec again without `GLIBC_TUNABLES` | glibc reads it before `main`: with `glibc.mem.tagging` the heap would be mapped with PROT_MTE, which the jail refuses, and system calls would meet tagged pointers. Switching checks off later does not undo the mapping, so the process starts over (same pid, same descriptors) |
//! | no_new_privs | no set-uid program; seccomp and landlock without root |
//! | tag checks off | no process of ours checks tags on guest memory, whatever it inherited |
//! | no huge pages | splitting one zeroes tags (a kernel bug); [`huge_pages`] where the guest has none |
//! | not dumpable | no core dump with guest memory in it; `/proc/PID/{mem,fd,maps}`, ptrace and pidfd_getfd need CAP_SYS_PTRACE, even for the same user. What container runtimes read of the machine, `/proc/PID/{stat,status,task/*/comm}`, stays readable |
//! | plain personality | READ_IMPLIES_EXEC would make every readable mapping executable past the seccomp rule |
//! | umask 077 | sockets and files are the owner's; a socket has mode 0700 as clients expect |
//! | RLIMIT_CORE 0 | as above |
//! | name | after an exec through `/proc/self/exe` or a descriptor the kernel would call the process "exe" or "3" |

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::sys;

/// Read by glibc before `main`; never passed on.
pub const GLIBC_TUNABLES: &str = "GLIBC_TUNABLES";

/// `linux/prctl.h`; `libc` has it for aarch64 only.
const PR_SET_TAGGED_ADDR_CTRL: libc::c_int = 55;

/// Why a process could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process cannot start over without `GLIBC_TUNABLES`.
    #[error("starting again without GLIBC_TUNABLES; unset it and start again")]
    Restart(#[source] io::Error),
    /// The kernel refuses one of the settings.
    #[error("{setting}")]
    Setting {
        /// What was to be set.
        setting: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Prepares the calling process; call it first in `main`, before any thread exists.
///
/// # Errors
/// Where the kernel refuses a setting: the process must not go on.
pub fn prepare_process() -> Result<(), Error> {
    restart_without_tunables()?;
    let set = |setting: &'static str, result: io::Result<()>| {
        result.map_err(|source| Error::Setting { setting, source })
    };
    set("forbidding new privileges", sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    set("switching tag checks off", tag_checks_off())?;
    set("disabling huge pages", sys::prctl(libc::PR_SET_THP_DISABLE, 1))?;
    set("making the process undumpable", sys::prctl(libc::PR_SET_DUMPABLE, 0))?;
    if sys::reads_imply_exec() {
        set("leaving READ_IMPLIES_EXEC", sys::plain_personality())?;
    }
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let core = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    set("disabling core dumps", core.map_err(io::Error::from))?;
    name_after_argv0();
    Ok(())
}

/// Lets the kernel use huge pages for a guest without tags, or forbids them again; before its memory is mapped.
///
/// # Errors
/// Where the kernel refuses.
pub fn huge_pages(allowed: bool) -> io::Result<()> {
    sys::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allowed))
}

/// Sets PR_TAGGED_ADDR_CTRL to no checks and no tagged addresses in system calls.
///
/// EINVAL is the answer of a processor without tagging and of every other architecture: nothing to switch off.
fn tag_checks_off() -> io::Result<()> {
    match sys::prctl(PR_SET_TAGGED_ADDR_CTRL, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

fn restart_without_tunables() -> Result<(), Error> {
    if std::env::var_os(GLIBC_TUNABLES).is_none() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Cannot loop: the process that comes out of this has no such variable.
    Err(Error::Restart(command.args(arguments).env_remove(GLIBC_TUNABLES).exec()))
}

/// Names the main thread, and so the process, by the last component of argv\[0\]. A process without one keeps its name.
fn name_after_argv0() {
    let Some(argv0) = std::env::args_os().next() else { return };
    let Some(name) = Path::new(&argv0).file_name().and_then(|name| CString::new(name.as_bytes()).ok()) else {
        return;
    };
    // A name is for people: failing to set it is no reason to stop.
    let _ = rustix::thread::set_name(&name);
}
