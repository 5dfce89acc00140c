//! The attempts.

use std::io;

use super::Beneath::{Landlock, Mdwe, Nothing, SignalScope};
use super::Verdict::{Enosys, Kill, KillButInMachine, KillButInMover};
use super::sys::{Tools, address, by_fork, call, memory, parent, text, words};
use super::{Attempt, Beneath, Verdict};
use crate::call::{
    BIND, BPF, CHROOT, CLONE, CLONE3, CONNECT, EXECVE, EXECVEAT, INIT_MODULE, IO_URING_SETUP, IOCTL, KEYCTL,
    KILL, MMAP, MOUNT, MPROTECT, OPENAT, OPENAT2, PERF_EVENT_OPEN, PERSONALITY, PIDFD_GETFD, PIDFD_OPEN,
    PKEY_MPROTECT, PROCESS_VM_READV, PTRACE, SETNS, SOCKET, UNSHARE, USERFAULTFD,
};
use crate::ioctl::{KVM_CREATE_VM, TIOCSTI};

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXEC: u64 = 4;
/// `PROT_MTE` on aarch64; x86-64 ignores the bit in mmap and calls it invalid in mprotect.
const TAGS: u64 = 0x20;
const PRIVATE_ANONYMOUS: u64 = 0x22;
const PAGE: u64 = 4096;
/// `AT_FDCWD`.
const HERE: u64 = u64::MAX - 99;
const NO_FD: u64 = u64::MAX;
const SIGCHLD: u64 = 17;
const MS_BIND: u64 = 0x1000;
const EMPTY_PATH: u64 = 0x1000;

const fn attempt(
    name: &'static str,
    run: fn(&Tools) -> io::Result<()>,
    confined: Verdict,
    refused_to_control: bool,
    beneath: Beneath,
) -> Attempt {
    Attempt { name, run, confined, refused_to_control, beneath }
}

/// Every attempt.
pub const ALL: &[Attempt] = &[
    // Paths.
    attempt(
        "open a file",
        |_| call(OPENAT, &[HERE, text(c"/dev/null"), 0]),
        Kill,
        false,
        Landlock(1, libc::EACCES),
    ),
    attempt("open a file by openat2", open_by_openat2, Kill, false, Landlock(1, libc::EACCES)),
    attempt(
        "read /proc",
        |_| call(OPENAT, &[HERE, text(c"/proc/self/status"), 0]),
        Kill,
        false,
        Landlock(1, libc::EACCES),
    ),
    attempt(
        "list a directory",
        |_| call(OPENAT, &[HERE, text(c"/"), 0o200_000]),
        Kill,
        false,
        Landlock(1, libc::EACCES),
    ),
    attempt("change root", |_| call(CHROOT, &[text(c"/")]), Kill, false, Nothing),
    attempt(
        "mount",
        |_| call(MOUNT, &[text(c"/"), text(c"/"), 0, MS_BIND, 0]),
        Kill,
        false,
        Landlock(1, libc::EPERM),
    ),
    // Networks.
    attempt("make a socket", |_| call(SOCKET, &[2, 1, 0]), Kill, false, Nothing),
    attempt(
        "connect by TCP",
        |tools| call(CONNECT, &[tools.socket, address(), 16]),
        Kill,
        false,
        Landlock(4, libc::EACCES),
    ),
    attempt(
        "listen by TCP",
        |tools| call(BIND, &[tools.socket, address(), 16]),
        Kill,
        false,
        Landlock(4, libc::EACCES),
    ),
    // Programs and processes.
    attempt(
        "execute a program",
        |_| call(EXECVE, &[text(c"/proc/self/exe"), memory(), memory()]),
        Kill,
        false,
        Landlock(1, libc::EACCES),
    ),
    // Landlock knows paths, and this has none: seccomp alone refuses it.
    attempt(
        "execute a memfd",
        |tools| call(EXECVEAT, &[tools.memfd, text(c""), memory(), memory(), EMPTY_PATH]),
        Kill,
        false,
        Nothing,
    ),
    attempt("fork", |_| by_fork(CLONE, &[SIGCHLD, 0, 0, 0, 0]), Kill, false, Nothing),
    attempt("fork by clone3", |_| by_fork(CLONE3, &[clone3_arguments(), 64]), Enosys, false, Nothing),
    // Other processes.
    attempt(
        "trace its parent",
        |_| call(PTRACE, &[0x4206, parent(), 0, 0]),
        Kill,
        true,
        Landlock(1, libc::EPERM),
    ),
    attempt("read its parent's memory", read_parents_memory, Kill, true, Landlock(1, libc::EPERM)),
    attempt("signal its parent", |_| call(KILL, &[parent(), 0]), Kill, false, SignalScope),
    attempt("hold its parent", |_| call(PIDFD_OPEN, &[parent(), 0]), Kill, false, Nothing),
    attempt("take a descriptor of its parent", |_| call(PIDFD_GETFD, &[NO_FD, 0, 0]), Kill, true, Nothing),
    // Code and tags.
    attempt(
        "map code",
        |_| call(MMAP, &[0, PAGE, READ | EXEC, PRIVATE_ANONYMOUS, NO_FD, 0]),
        Kill,
        false,
        Nothing,
    ),
    attempt(
        "map writable code",
        |_| call(MMAP, &[0, PAGE, READ | WRITE | EXEC, PRIVATE_ANONYMOUS, NO_FD, 0]),
        Kill,
        false,
        Mdwe,
    ),
    attempt("turn data into code", |_| call(MPROTECT, &[memory(), PAGE, READ | EXEC]), Kill, false, Mdwe),
    attempt(
        "turn data into code by key",
        |_| call(PKEY_MPROTECT, &[memory(), PAGE, READ | EXEC, NO_FD]),
        Kill,
        true,
        Mdwe,
    ),
    attempt(
        "map tags",
        |_| call(MMAP, &[0, PAGE, READ | WRITE | TAGS, PRIVATE_ANONYMOUS, NO_FD, 0]),
        KillButInMover,
        false,
        Nothing,
    ),
    attempt(
        "turn data into tags",
        |_| call(MPROTECT, &[memory(), PAGE, READ | WRITE | TAGS]),
        Kill,
        true,
        Nothing,
    ),
    attempt("make reading imply executing", |_| call(PERSONALITY, &[0x0040_0000]), Kill, true, Nothing),
    // Kernel interfaces.
    attempt("leave its namespaces", |_| call(UNSHARE, &[0x1000_0000]), Kill, false, Nothing),
    attempt("enter a namespace", |_| call(SETNS, &[NO_FD, 0]), Kill, true, Nothing),
    attempt("load a BPF program", |_| call(BPF, &[5, 0, 0]), Kill, true, Nothing),
    attempt("load a kernel module", |_| call(INIT_MODULE, &[memory(), 0, text(c"")]), Kill, true, Nothing),
    attempt("make a userfaultfd", |_| call(USERFAULTFD, &[1]), Kill, true, Nothing),
    attempt("make an io_uring", |_| call(IO_URING_SETUP, &[1, memory()]), Kill, false, Nothing),
    attempt(
        "count performance events",
        |_| call(PERF_EVENT_OPEN, &[memory(), 0, 0, NO_FD, 0]),
        Kill,
        true,
        Nothing,
    ),
    attempt("use the keyring", |_| call(KEYCTL, &[0, 0, 0]), Kill, true, Nothing),
    attempt("type into the terminal", |_| call(IOCTL, &[0, TIOCSTI.into(), text(c"x")]), Kill, true, Nothing),
    attempt(
        "make a VM",
        |_| call(IOCTL, &[NO_FD, KVM_CREATE_VM.into(), 0]),
        KillButInMachine,
        false,
        Nothing,
    ),
];

/// `struct open_how`: three zero words, a plain read.
fn open_by_openat2(_: &Tools) -> io::Result<()> {
    call(OPENAT2, &[HERE, text(c"/dev/null"), memory(), 24])
}

/// `struct clone_args` with SIGCHLD as exit signal.
fn clone3_arguments() -> u64 {
    words(&[0, 0, 0, 0, SIGCHLD, 0, 0, 0])
}

fn read_parents_memory(_: &Tools) -> io::Result<()> {
    let local = words(&[memory(), 8]);
    let remote = words(&[memory(), 8]);
    call(PROCESS_VM_READV, &[parent(), local, 1, remote, 1, 0])
}
