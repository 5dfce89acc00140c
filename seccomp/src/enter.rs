//! Entering a jail: once per process, while it has one thread, and once per narrower thread.
//!
//! ```text
//! prepare_process → (open, receive, spawn) → enter ──┬─ (device and mover, root: namespaces, user) → limits → capabilities → MDWE → landlock → seccomp
//!                                                     └─ threads inherit all of it
//!                                            enter_thread → a second, narrower seccomp filter
//! ```

use std::io;

use crate::filter;
use crate::isolation;
use crate::kind::{JailKind, Kind, SeccompMode, ThreadKind};
use crate::limits;
use crate::paths;
use crate::report::JailReport;
use crate::rules::Table;
use crate::sys;

/// Names a line to leave out of a table: `KIND:INDEX`. Only lists of what is allowed heed it, so it can only tighten.
///
/// A test sets it for each line in turn and expects a failure: no line is there for nothing.
pub const DROP_RULE: &str = "GRANULE_JAIL_DROP";

/// Why a jail could not be entered. The process must end: it is confined in part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Threads exist that landlock and seccomp would not reach.
    #[error("the process has several threads: the jail must be entered before any other is started")]
    Threads,
    /// A resource limit.
    #[error("lowering a resource limit")]
    Limit(#[from] limits::Error),
    /// Namespaces and user.
    #[error("leaving the host's namespaces and user")]
    Isolation(#[source] io::Error),
    /// Privileges.
    #[error("dropping capabilities")]
    Capabilities(#[source] io::Error),
    /// Memory protection.
    #[error("forbidding executable memory with PR_SET_MDWE")]
    Mdwe(#[source] io::Error),
    /// Landlock.
    #[error("giving up the file system with landlock")]
    Landlock(#[from] landlock::RulesetError),
    /// Seccomp.
    #[error("entering the seccomp jail '{kind}'")]
    Seccomp {
        /// Whose table.
        kind: Kind,
        /// What went wrong.
        source: filter::Error,
    },
}

/// Confines the calling process, for good.
///
/// # Errors
/// See [`Error`]; the process must end then.
pub fn enter(kind: JailKind, mode: SeccompMode) -> Result<JailReport, Error> {
    let mut report = JailReport::of(kind, mode);
    if !sys::single_threaded() {
        return Err(Error::Threads);
    }
    sys::one_heap();
    if let JailKind::Device(_) | JailKind::Mover = kind {
        report.left = isolation::leave().map_err(Error::Isolation)?;
    }
    limits::lower(kind)?;
    if kind != JailKind::Control {
        plain_panics(kind);
        sys::drop_capabilities().map_err(Error::Capabilities)?;
        if report.mdwe {
            sys::prctl(libc::PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN).map_err(Error::Mdwe)?;
        }
        paths::give_up(kind != JailKind::Machine)?;
    }
    install(kind.into(), mode)?;
    Ok(report)
}

/// Confines the calling thread of the machine further; call it first in the thread.
///
/// # Errors
/// [`Error::Seccomp`]; the thread must not run then.
pub fn enter_thread(kind: ThreadKind, mode: SeccompMode) -> Result<(), Error> {
    install(kind.into(), mode)
}

/// As Rust's own runtime has it.
const PANICKED: i32 = 101;

/// `linux/prctl.h`; refuses PROT_EXEC for what was not executable, and memory both writable and executable.
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;

fn install(kind: Kind, mode: SeccompMode) -> Result<(), Error> {
    filter::install(&wanted_table(kind), mode).map_err(|source| Error::Seccomp { kind, source })
}

/// The kind's table, less the line that [`DROP_RULE`] names.
fn wanted_table(kind: Kind) -> Table {
    let table = Table::of(kind);
    let dropped = std::env::var(DROP_RULE).ok().and_then(|wanted| dropped_line(&wanted, kind));
    dropped.and_then(|index| table.clone().without(index)).unwrap_or(table)
}

fn dropped_line(wanted: &str, kind: Kind) -> Option<usize> {
    let (name, index) = wanted.split_once(':')?;
    (name == kind.name()).then(|| index.parse().ok())?
}

/// Makes a panic print its message and nothing more: a backtrace would open the executable and die of that instead.
///
/// Where there is nobody else, it is the end: the first process of a PID namespace cannot abort by a signal to itself.
fn plain_panics(kind: JailKind) {
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        eprintln!("thread '{}' {info}", thread.name().unwrap_or("unnamed"));
        if kind != JailKind::Machine {
            std::process::exit(PANICKED);
        }
    }));
}
