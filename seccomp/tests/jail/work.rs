//! Ordinary work goes on in every jail, and stops where a needed rule is taken away.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use granule_jail::rules::Table;
use granule_jail::{DeviceKind, JailKind, Kind};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, fdatasync, fsync, ftruncate,
    memfd_create, seek,
};
use rustix::io::{preadv, pwritev};

use crate::harness::{End, Test};
use crate::roles;

const SIGABRT: i32 = 6;
const SIGSYS: i32 = 31;

pub const TESTS: &[Test] = &[
    ("ordinary_work_goes_on_in_every_jail", ordinary_work_goes_on_in_every_jail),
    ("a_panic_in_a_jail_ends_by_itself_and_not_by_seccomp", a_panic_ends_by_itself),
    ("a_jail_without_a_rule_it_needs_fails", a_jail_without_a_rule_it_needs_fails),
    ("no_rule_of_the_runtime_is_there_for_nothing", no_rule_of_the_runtime_is_there_for_nothing),
];

/// What any thread does: memory small and large, time, randomness, locks, log lines.
pub fn ordinary() {
    let began = Instant::now();
    let mut blocks: Vec<Vec<u8>> = (0..64).map(|index| vec![1; 1000 << (index % 11)]).collect();
    blocks.retain(|block| block.len() % 3 != 0);
    blocks.iter_mut().for_each(|block| block.resize(block.len() * 3, 2));
    let names: HashMap<usize, String> =
        blocks.iter().map(|block| (block.len(), format!("{block:p}"))).collect();
    // Beyond what malloc ever takes from its heap.
    let mut large = Vec::<u8>::with_capacity(64 << 20);
    large.push(1);
    large.reserve_exact(128 << 20);
    // Times that no vDSO knows, and a wait for nobody.
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills what it is given.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    std::thread::park_timeout(Duration::from_micros(1));
    eprintln!("{} blocks after {:?}, of which {} ns at work", names.len(), began.elapsed(), time.tv_nsec);
}

/// What a thread does that has others beside it.
fn beside_others() {
    ordinary();
    std::thread::sleep(Duration::from_millis(1));
    std::thread::yield_now();
}

/// A thread is interrupted, and goes on.
fn interrupted() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing; raise takes a number.
    let raised = unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::raise(libc::SIGUSR1)
    };
    assert_eq!(raised, 0);
}

fn start_threads() {
    let threads: Vec<_> = (0..4)
        .map(|index| std::thread::Builder::new().name(format!("worker{index}")).spawn(beside_others).unwrap())
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What a disk's process does with its image, and with its note of what is in flight; each call has a rule of its own.
fn disk() {
    let file = memfd_create("image", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 1 << 16).unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    assert_eq!(pwritev(&file, &[IoSlice::new(&[7; 512])], 4096).unwrap(), 512);
    let mut read = [0; 512];
    assert_eq!(preadv(&file, &mut [IoSliceMut::new(&mut read)], 4096).unwrap(), 512);
    assert_eq!(read, [7; 512]);
    fdatasync(&file).unwrap();
    fsync(&file).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
    assert_eq!(seek(&file, SeekFrom::End(0)).unwrap(), 1 << 16);
}

/// The work of one kind of jail: of a process alone, of one with its threads, or of one thread among others.
pub fn of(kind: Kind) {
    match kind {
        Kind::Process(JailKind::Device(DeviceKind::Blk)) => {
            ordinary();
            disk();
        }
        Kind::Process(JailKind::Device(_) | JailKind::Mover) => ordinary(),
        Kind::Process(_) => {
            ordinary();
            interrupted();
            start_threads();
        }
        Kind::Thread(_) => beside_others(),
    }
}

fn ordinary_work_goes_on_in_every_jail() -> End {
    for kind in Kind::all() {
        let played = roles::start(&["work", kind.name(), "true"]);
        assert!(played.status.success(), "{kind}: {}", played.status);
        assert_eq!(played.report, ["done"], "{kind}");
    }
    End::Passed
}

/// With backtraces asked for, as container runtimes do: printing one would open files.
fn a_panic_ends_by_itself() -> End {
    with_variable("RUST_BACKTRACE", "full", || {
        for kind in Kind::all() {
            let played = roles::start(&["panic", kind.name(), "true"]);
            let unwound = played.status.code() == Some(101);
            let aborted = played.status.signal() == Some(SIGABRT);
            assert!(unwound || aborted, "{kind}: {}", played.status);
        }
    });
    End::Passed
}

fn a_jail_without_a_rule_it_needs_fails() -> End {
    for (kind, call) in [
        ("rng", "exit_group"),
        ("blk", "memfd_create"),
        ("blk", "ftruncate"),
        ("blk", "pwritev"),
        ("blk", "preadv"),
        ("blk", "fdatasync"),
        ("blk", "fsync"),
        ("blk", "fallocate"),
        ("blk", "lseek"),
        ("machine", "clone"),
        ("machine", "mmap"),
        ("vcpu", "munmap"),
        ("serial-writer", "futex"),
    ] {
        let table = Table::of(kind.parse::<Kind>().unwrap());
        let index = table.rules.iter().position(|rule| rule.call.name() == call).unwrap();
        with_variable(granule_jail::DROP_RULE, &format!("{kind}:{index}"), || {
            let played = roles::start(&["work", kind, "true"]);
            assert_eq!(played.status.signal(), Some(SIGSYS), "{kind} without {call}: {}", played.status);
        });
    }
    End::Passed
}

/// What the runtime is allowed that its work here does not lead to, and what does.
const ELSEWHERE: &[(&str, &str)] = &[
    ("restart_syscall", "a stop in the middle of a wait with a time limit; e2e `hostile` stops processes"),
    #[cfg(target_arch = "aarch64")]
    ("clone3", "newer C libraries than the one that this is linked with"),
];

/// The rules that every process has are taken away from one that has little else, those for threads from the machine.
fn no_rule_of_the_runtime_is_there_for_nothing() -> End {
    let (alone, threads) = (Table::runtime().rules, Table::threads().rules);
    let sigsys = |how, kind| roles::start(&[how, kind, "true"]).status.signal() == Some(SIGSYS);
    let mut unneeded = Vec::new();
    for (kind, rules) in [("rng", alone), ("machine", threads)] {
        assert!(!sigsys("work", kind) && !sigsys("abort", kind), "{kind}");
        let table = Table::of(kind.parse::<Kind>().unwrap());
        for rule in rules {
            let index = table.rules.iter().position(|known| known.matches_same(&rule)).unwrap();
            let killed = with_variable(granule_jail::DROP_RULE, &format!("{kind}:{index}"), || {
                sigsys("work", kind) || sigsys("abort", kind)
            });
            if !killed && !ELSEWHERE.iter().any(|(call, _)| *call == rule.call.name()) {
                unneeded.push(format!("{kind}: {} {:?} ({})", rule.call.name(), rule.when, rule.why));
            }
        }
    }
    assert!(unneeded.is_empty(), "nobody needs {unneeded:#?}");
    End::Passed
}

fn with_variable<T>(name: &str, value: &str, act: impl FnOnce() -> T) -> T {
    let before = std::env::var_os(name);
    // SAFETY: the tests run on the only thread of this process.
    unsafe { std::env::set_var(name, value) };
    let done = act();
    // SAFETY: as above.
    unsafe {
        match before {
            Some(before) => std::env::set_var(name, before),
            None => std::env::remove_var(name),
        }
    }
    done
}
