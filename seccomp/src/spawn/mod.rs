//! Starting a process of ours: our own binary, an exact list of descriptors, nothing else inherited.
//!
//! ```text
//! parent                                          child
//! copies descriptors above the wanted numbers
//! builds argv, environment; blocks signals
//! fork, with root into a PID namespace ──────────► signals: INT, QUIT, HUP, TSTP, TERM ignored, others as at boot
//!                                                 PDEATHSIG = KILL; is the parent still there?
//!                                                 stdio, then descriptors at 3, 4, …; all others close at exec
//! reads the report ◄───── stage and errno ─────── execveat(own binary), which closes the report's pipe
//! pidfd_open
//! ```
//!
//! - **PDEATHSIG follows the thread** that called [`Spawn::start`]: call it from one that lives as long as the process.
//! - The child ignores what a terminal or a service manager sends to the whole group: the machine ends in order, and its
//!   end ends the child.
//! - The environment is empty but for `RUST_BACKTRACE`, `RUST_LOG` and `GRANULE_*`; `GLIBC_TUNABLES` never passes.

mod child;
mod sys;

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;

pub use child::Child;
use sys::Stage;

/// The first descriptor after stdin, stdout and stderr.
const FIRST: RawFd = 3;

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument or name cannot be passed on.
    #[error("an argument of the new process contains a NUL byte")]
    Nul(#[from] std::ffi::NulError),
    /// The parent's part failed.
    #[error("preparing to start a process: {what}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The child's part failed, before it became our binary.
    #[error("starting a process: {stage}")]
    Child {
        /// What the child tried.
        stage: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn prepare<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Prepare { what, source: source.into() }
}

/// Our own binary, held open: what is started later is what runs now, even if the file has been replaced since.
#[derive(Debug)]
pub struct Executable(OwnedFd);

impl Executable {
    /// Opens the binary of the calling process.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Ok(Self(rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
    }
}

/// What the child's stdout and stderr are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// The parent's.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
}

/// A process to be started.
#[derive(Debug)]
pub struct Spawn<'a> {
    executable: &'a Executable,
    arguments: Vec<Vec<u8>>,
    descriptors: Vec<BorrowedFd<'a>>,
    output: Output,
    input: bool,
    alone: bool,
}

impl<'a> Spawn<'a> {
    /// Begins with argv\[0\], by which the process names itself in [`crate::prepare_process`]; up to 15 bytes show.
    #[must_use]
    pub fn new(executable: &'a Executable, name: &str) -> Self {
        Self {
            executable,
            arguments: vec![name.as_bytes().to_vec()],
            descriptors: Vec::new(),
            output: Output::Inherit,
            input: false,
            alone: false,
        }
    }

    /// Adds an argument.
    pub fn argument(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().as_bytes().to_vec());
        self
    }

    /// Adds a descriptor and tells the number it has in the child: 3 for the first, then 4 and so on.
    pub fn descriptor(&mut self, descriptor: BorrowedFd<'a>) -> RawFd {
        self.descriptors.push(descriptor);
        self.first_free() - 1
    }

    /// Chooses stdout and stderr.
    pub fn output(&mut self, output: Output) -> &mut Self {
        self.output = output;
        self
    }

    /// Lets the child have the parent's stdin; otherwise it has `/dev/null`.
    pub fn inherit_input(&mut self) -> &mut Self {
        self.input = true;
        self
    }

    /// Gives the child a PID namespace of its own, if that is allowed: with root. There it has the number 1, and no signal
    /// without a handler reaches it but KILL and STOP of ours.
    pub fn alone(&mut self) -> &mut Self {
        self.alone = true;
        self
    }

    /// The lowest number above the list. A list of 2³¹ descriptors does not exist: each is open.
    fn first_free(&self) -> RawFd {
        FIRST + RawFd::try_from(self.descriptors.len()).unwrap_or(RawFd::MAX - FIRST)
    }

    /// Starts the process and waits until it has become our binary, or failed to.
    ///
    /// # Errors
    /// [`Error`] says on which side and at what; no process is left then.
    pub fn start(&self) -> Result<Child, Error> {
        let arguments = self.arguments.iter().map(|argument| CString::new(argument.as_slice()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let environment = environment()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(prepare("opening /dev/null"))?;
        let (report, low_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(prepare("making a pipe"))?;

        // Every source lies above every target, so no placement overwrites a source that is still to be placed.
        let above = |fd: BorrowedFd<'_>| {
            fcntl_dupfd_cloexec(fd, self.first_free()).map_err(prepare("copying a descriptor for the child"))
        };
        let sources = self.descriptors.iter().map(|fd| above(*fd)).collect::<Result<Vec<_>, _>>()?;
        let null = above(null.as_fd())?;
        let report_end = above(low_end.as_fd())?;
        drop(low_end);
        let executable = above(self.executable.0.as_fd())?;

        let argv = sys::PointerList::new(&arguments);
        let envp = sys::PointerList::new(&environment);
        let sources: Vec<RawFd> = sources.iter().map(AsRawFd::as_raw_fd).collect();
        let input = (!self.input).then_some(null.as_raw_fd());
        let recipe = sys::Recipe {
            executable: executable.as_raw_fd(),
            argv: &argv,
            envp: &envp,
            stdio: match self.output {
                Output::Inherit => [input, None, None],
                Output::Null => [input, Some(null.as_raw_fd()), Some(null.as_raw_fd())],
            },
            first: FIRST,
            sources: &sources,
            report: report_end.as_raw_fd(),
            reader: report.as_raw_fd(),
            alone: self.alone,
            parent: rustix::process::getpid(),
        };
        let pid = sys::fork_and_exec(&recipe).map_err(prepare("fork"))?;
        // The child's copies are now the only ones, so the report ends when the child has become our binary.
        drop(report_end);
        let child = Child::adopt(pid).map_err(prepare("pidfd_open"))?;
        match Stage::read(report) {
            None => Ok(child),
            Some((stage, source)) => {
                // It has exited already; whatever there is to say was in the report.
                let _ = child.wait();
                Err(Error::Child { stage: stage.words(), source })
            }
        }
    }
}

/// What the child gets to see of our environment.
fn environment() -> Result<Vec<CString>, Error> {
    let passed = |name: &OsStr| {
        name == "RUST_BACKTRACE" || name == "RUST_LOG" || name.as_bytes().starts_with(b"GRANULE_")
    };
    let pairs = std::env::vars_os().filter(|(name, _)| passed(name));
    let lines = pairs.map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    Ok(lines.map(CString::new).collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_executed_is_reported_with_its_stage() {
        let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let failure = Spawn::new(&Executable(null), "nothing").start().unwrap_err();
        assert!(matches!(&failure, Error::Child { stage: "executing our own binary", source }
            if source.raw_os_error() == Some(libc::EACCES)));
    }

    #[test]
    fn an_argument_with_a_nul_byte_is_refused() {
        let executable = Executable::own().unwrap();
        let mut spawn = Spawn::new(&executable, "granule");
        assert!(matches!(spawn.argument("a\0b").start(), Err(Error::Nul(_))));
    }
}
