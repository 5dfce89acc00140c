//! The child's side between fork and exec: system calls only, no allocation, no lock, no destructor.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::Pid;

/// Sent to whole groups by terminals and service managers; children end with the machine instead.
const IGNORED: [libc::c_int; 5] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP, libc::SIGTERM];
const LAST_SIGNAL: libc::c_int = 64;

/// A NULL-terminated list of C strings, as `execve` wants it.
pub(super) struct PointerList<'a> {
    pointers: Vec<*const libc::c_char>,
    strings: PhantomData<&'a CStr>,
}

impl<'a> PointerList<'a> {
    pub(super) fn new(strings: &'a [CString]) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings: PhantomData }
    }
}

/// Everything the child needs, made before the fork. The descriptors are open in the parent and lie above the targets.
pub(super) struct Recipe<'a> {
    pub(super) executable: RawFd,
    pub(super) argv: &'a PointerList<'a>,
    pub(super) envp: &'a PointerList<'a>,
    pub(super) stdio: [Option<RawFd>; 3],
    pub(super) first: RawFd,
    pub(super) sources: &'a [RawFd],
    pub(super) report: RawFd,
    /// The parent's end of the report.
    pub(super) reader: RawFd,
    pub(super) alone: bool,
    pub(super) parent: Pid,
}

/// Where the child failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Signals = 1,
    DeathSignal,
    Descriptors,
    CloseOthers,
    Exec,
}

impl Stage {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Signals => "resetting signals",
            Self::DeathSignal => "tying its life to its parent's",
            Self::Descriptors => "placing descriptors",
            Self::CloseOthers => "closing the other descriptors",
            Self::Exec => "executing our own binary",
        }
    }

    /// Reads the child's report: nothing means that it has become our binary (or was killed, which `wait` tells).
    pub(super) fn read(report: OwnedFd) -> Option<(Self, io::Error)> {
        let mut bytes = [0; 8];
        File::from(report).read_exact(&mut bytes).ok()?;
        let (stage, errno) = bytes.split_at(4);
        let stages = [Self::Signals, Self::DeathSignal, Self::Descriptors, Self::CloseOthers, Self::Exec];
        let stage = stages.into_iter().find(|known| (*known as u32).to_ne_bytes() == *stage)?;
        Some((stage, io::Error::from_raw_os_error(i32::from_ne_bytes(errno.try_into().ok()?))))
    }
}

/// Forks; the child executes the recipe.
pub(super) fn fork_and_exec(recipe: &Recipe<'_>) -> io::Result<Pid> {
    let mut all = empty_set();
    let mut before = empty_set();
    // A handler of the parent must not run in the child, so signals wait until their dispositions are reset there.
    // SAFETY: both sets live on this stack.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    // SAFETY: the child makes async-signal-safe calls only, on memory prepared before, and ends in exec or _exit.
    let pid = unsafe { fork(recipe.alone) };
    if pid == 0 {
        let (stage, errno) = become_binary(recipe);
        give_up(recipe.report, stage, errno);
    }
    let failure = io::Error::last_os_error();
    // SAFETY: restores the set that was read above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or(failure)
}

/// As fork, if possible into a PID namespace; what is not allowed there (it takes root) is done without.
///
/// # Safety
/// The child may make async-signal-safe calls only: the C library does not know of it.
unsafe fn fork(alone: bool) -> libc::pid_t {
    if alone {
        let (flags, none) = (libc::CLONE_NEWPID | libc::SIGCHLD, 0usize);
        // SAFETY: without CLONE_VM and without a stack this is fork; the caller keeps to what that allows.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
        if let Ok(pid) = libc::pid_t::try_from(pid)
            && pid >= 0
        {
            return pid;
        }
    }
    // SAFETY: the caller's.
    unsafe { libc::fork() }
}

/// One stage; false means that errno says why not.
type Step = fn(&Recipe<'_>) -> bool;

/// In the child: goes through the stages and returns only from one that failed.
fn become_binary(recipe: &Recipe<'_>) -> (Stage, libc::c_int) {
    let stages: [(Stage, Step); 5] = [
        (Stage::Signals, |_| reset_signals()),
        (Stage::DeathSignal, die_with_parent),
        (Stage::Descriptors, place_descriptors),
        (Stage::CloseOthers, close_others),
        (Stage::Exec, execute),
    ];
    for (stage, step) in stages {
        if !step(recipe) {
            // SAFETY: errno is this thread's own.
            return (stage, unsafe { *libc::__errno_location() });
        }
    }
    (Stage::Exec, 0)
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain bits, all zero is the empty set.
    unsafe { std::mem::zeroed() }
}

fn reset_signals() -> bool {
    let none = empty_set();
    // SAFETY: SIG_DFL and SIG_IGN run no code of ours. KILL, STOP and glibc's own two answer EINVAL: they have no other
    // disposition. The mask is a valid set.
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            libc::signal(signal, if IGNORED.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) == 0
    }
}

fn die_with_parent(recipe: &Recipe<'_>) -> bool {
    let signal: libc::c_ulong = 9;
    let zero: libc::c_ulong = 0;
    // SAFETY: no pointers.
    let (asked, parent) =
        unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal, zero, zero, zero), libc::getppid()) };
    // In a PID namespace of its own it has no parent to name: the report then tells whether anybody reads it.
    let orphan = if parent == 0 { !is_read(recipe) } else { parent != recipe.parent.as_raw_nonzero().get() };
    if orphan {
        // It died before the signal was asked for: nobody is left to report to.
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(127) };
    }
    asked == 0
}

/// Whether the parent holds its end of the report.
fn is_read(recipe: &Recipe<'_>) -> bool {
    let mut report = libc::pollfd { fd: recipe.report, events: 0, revents: 0 };
    // SAFETY: the child's copy of the parent's end is nobody else's; poll is handed one entry.
    unsafe {
        libc::close(recipe.reader);
        libc::poll(&raw mut report, 1, 0) >= 0 && report.revents & libc::POLLERR == 0
    }
}

fn place_descriptors(recipe: &Recipe<'_>) -> bool {
    let stdio = (0..).zip(recipe.stdio).filter_map(|(target, source)| source.map(|source| (target, source)));
    let listed = (recipe.first..).zip(recipe.sources.iter().copied());
    stdio.chain(listed).all(|(target, source)| {
        // SAFETY: sources are open and above all targets; dup2 clears close-on-exec on the copy.
        unsafe { libc::dup2(source, target) == target }
    })
}

/// Marks everything above the list close-on-exec: the report and the binary are still needed until then.
fn close_others(recipe: &Recipe<'_>) -> bool {
    let above = recipe.first.unsigned_abs() as usize + recipe.sources.len();
    // SAFETY: no pointers; the flag closes nothing now.
    unsafe {
        if libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return true;
        }
        // Before Linux 5.11: one by one, up to the highest number there can be.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return false;
        }
        let last = libc::c_int::try_from(limit.rlim_max).unwrap_or(libc::c_int::MAX);
        for descriptor in (recipe.first..last).skip(recipe.sources.len()) {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    true
}

fn execute(recipe: &Recipe<'_>) -> bool {
    // SAFETY: both lists end in NULL and their strings outlive the call; the empty path with AT_EMPTY_PATH means the
    // descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            recipe.executable,
            c"".as_ptr(),
            recipe.argv.pointers.as_ptr(),
            recipe.envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    false
}

fn give_up(report: RawFd, stage: Stage, errno: libc::c_int) -> ! {
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&(stage as u32).to_ne_bytes());
    bytes[4..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: writes from this stack; a failure leaves nobody to tell. _exit is async-signal-safe.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}
