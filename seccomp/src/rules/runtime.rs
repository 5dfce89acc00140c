//! What the Rust runtime and glibc need in any jailed thread, whatever its work is.

#[cfg(debug_assertions)]
use crate::call::FCNTL;
use crate::call::{
    BRK, CLOCK_GETTIME, CLOCK_NANOSLEEP, CLONE, CLONE3, CLOSE, EXIT, EXIT_GROUP, FUTEX, GETPID, GETRANDOM,
    GETTID, IOCTL, MADVISE, MMAP, MPROTECT, MREMAP, MUNMAP, PRCTL, RESTART_SYSCALL, RSEQ, RT_SIGACTION,
    RT_SIGPROCMASK, RT_SIGRETURN, SCHED_GETAFFINITY, SCHED_YIELD, SET_ROBUST_LIST, SIGALTSTACK, TGKILL,
    WRITE,
};
use crate::ioctl::USERFAULTFD_IOC_NEW;
use crate::rule::{
    Rule,
    Test::{Is, LongIs, OneOf, OwnPid, Without},
};

pub(crate) const PROT_EXEC: u32 = 0x4;
/// `PROT_MTE` of aarch64. x86-64 gives the bit no meaning, so refusing it there costs nothing.
pub(crate) const PROT_MTE: u32 = 0x20;
/// Makes new code, or reaches the tags of shared guest memory.
pub(crate) const PROT_FORBIDDEN: u32 = PROT_EXEC | PROT_MTE;

const ENOSYS: u16 = 38;
const O_CLOEXEC_NONBLOCK: u32 = 0o2_004_000;
#[cfg(debug_assertions)]
const F_GETFD: u32 = 1;
const PR_SET_NAME: u32 = 15;
pub(crate) const PR_SET_NO_NEW_PRIVS: u32 = 38;

/// What `pthread_create` passes to `clone`: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID.
pub(crate) const THREAD_FLAGS: u32 = 0x003d_0f00;

/// Memory, time, log lines and the end of the process, orderly or not: `seccomp/tests/jail` shows that each is needed.
pub(super) const RUNTIME: &[Rule] = &[
    Rule::when(
        MMAP,
        &[Without(2, PROT_FORBIDDEN)],
        "heap, thread stacks, shared memory: neither code nor tags",
    ),
    Rule::any(MUNMAP, "free, thread stacks"),
    Rule::any(MREMAP, "realloc of large blocks; keeps the protection that mmap was allowed"),
    Rule::any(BRK, "malloc"),
    Rule::any(FUTEX, "locks, joins, channels; with one thread, pthread_once wakes nobody"),
    Rule::any(CLOCK_GETTIME, "time where the vDSO has no answer"),
    Rule::any(GETRANDOM, "seeds of hash maps and of malloc"),
    Rule::any(RT_SIGPROCMASK, "abort, and the start and end of threads, block signals"),
    Rule::any(SIGALTSTACK, "std's stack for stack overflows, set and freed per thread"),
    Rule::any(GETPID, "abort, thread kicks"),
    Rule::any(GETTID, "abort, thread names in logs"),
    Rule::when(TGKILL, &[OwnPid(0)], "abort; a thread interrupts a thread of its own process"),
    Rule::any(WRITE, "log lines on stderr; eventfds"),
    Rule::any(CLOSE, "drops descriptors"),
    #[cfg(debug_assertions)]
    Rule::when(
        FCNTL,
        &[Is(1, F_GETFD)],
        "std with debug assertions looks at a descriptor before it closes it",
    ),
    Rule::any(EXIT_GROUP, "end of the process"),
];

/// Mapping guest memory that is not there yet. The descriptor that the call needs, `/dev/userfaultfd`, is given to those
/// only whose guest is restored on demand.
pub(super) const LATE_MEMORY: &[Rule] = &[Rule::when(
    IOCTL,
    &[Is(1, USERFAULTFD_IOC_NEW), Is(2, O_CLOEXEC_NONBLOCK)],
    "a userfaultfd of its own memory, for the mover",
)];

/// Being one of several threads, which are interrupted, stopped with a time limit running, and end.
pub(super) const SHARING: &[Rule] = &[
    Rule::when(
        MADVISE,
        // DONTNEED, FREE, DONTFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, POPULATE_READ, POPULATE_WRITE
        &[OneOf(2, &[4, 8, 10, 14, 15, 16, 22, 23])],
        "thread stacks return pages; guest memory is marked on mapping",
    ),
    Rule::any(RT_SIGRETURN, "returns from the handler that interrupts a thread"),
    Rule::any(RESTART_SYSCALL, "the kernel resumes a wait with a time limit through it, after a stop"),
    Rule::any(SCHED_YIELD, "std's locks and channels, when contended"),
    Rule::any(CLOCK_NANOSLEEP, "bounded waits"),
    Rule::any(EXIT, "end of a thread"),
];

/// Starting threads, never processes: fork has other flags.
pub(super) const THREADS: &[Rule] = &[
    Rule::when(MPROTECT, &[Without(2, PROT_FORBIDDEN)], "opens a new thread's stack but for its guard page"),
    Rule::when(CLONE, &[LongIs(0, THREAD_FLAGS)], "pthread_create, with exactly its flags"),
    Rule::errno(
        CLONE3,
        ENOSYS,
        "pthread_create tries it first; its flags lie in memory, where BPF cannot look",
    ),
    Rule::any(
        SCHED_GETAFFINITY,
        "std asks pthread_getattr_np for a new thread's stack; it asks for the processors too",
    ),
    Rule::any(RT_SIGACTION, "the first pthread_create sets a handler of glibc's"),
    Rule::any(SET_ROBUST_LIST, "first act of a thread"),
    Rule::any(RSEQ, "first act of a thread"),
    Rule::when(PRCTL, &[Is(0, PR_SET_NAME)], "names a thread"),
];
