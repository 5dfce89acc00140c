//! Laws of the tables, checked by running the compiled programs of both architectures on made-up calls.

mod control;

use seccompiler::sock_filter;

use super::runtime::{PROT_EXEC, PROT_MTE, THREAD_FLAGS};
use super::{Sense, Table};
use crate::arch::Arch;
use crate::call::{
    BIND, BPF, CHROOT, CLONE, CONNECT, Call, EXECVE, EXECVEAT, FORK, IO_URING_ENTER, IO_URING_SETUP, IOCTL,
    KILL, MMAP, MOUNT, MPROTECT, NEWFSTATAT, OPEN, OPENAT, OPENAT2, PERSONALITY, PIDFD_GETFD, PIDFD_OPEN,
    PKEY_MPROTECT, PROCESS_VM_READV, PROCESS_VM_WRITEV, PTRACE, SETNS, SHMAT, SOCKET, SOCKETPAIR, STATX,
    TGKILL, TKILL, UMOUNT2, UNLINKAT, UNSHARE, USERFAULTFD, VFORK,
};
use crate::filter;
use crate::kind::{JailKind, Kind, SeccompMode, ThreadKind};
use crate::rule::Test;

const PID: u32 = 4711;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn confined() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| *kind != Kind::Process(JailKind::Control))
}

/// What the kernel would answer to a call under a kind's filter.
fn verdict(kind: Kind, arch: Arch, call: Call, args: [u64; 6]) -> Option<u32> {
    let number = call.number(arch)?;
    let program = filter::compile(&Table::of(kind), SeccompMode::Enforce, arch, PID).unwrap().unwrap();
    Some(run(&program, arch, number, args))
}

fn assert_verdict(kind: Kind, call: Call, args: [u64; 6], expected: u32) {
    for arch in Arch::ALL {
        if let Some(answer) = verdict(kind, arch, call, args) {
            assert_eq!(answer, expected, "{kind} on {arch:?}: {} {args:x?}", call.name());
        }
    }
}

/// Interprets the few BPF instructions that filters are made of.
fn run(program: &[sock_filter], arch: Arch, number: u16, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number.into(),
        4 => arch.audit_number(),
        16..64 if offset.is_multiple_of(8) => args[(offset as usize - 16) / 8] as u32,
        16..64 => (args[(offset as usize - 16) / 8] >> 32) as u32,
        _ => panic!("load of offset {offset}"),
    };
    let (mut accumulator, mut at) = (0, 0usize);
    loop {
        let instruction = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
        match u32::from(instruction.code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = word(instruction.k),
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= instruction.k,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += instruction.k as usize,
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                at += jump(accumulator == instruction.k);
            }
            code if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                at += jump(accumulator & instruction.k != 0);
            }
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                at += jump(accumulator >= instruction.k);
            }
            code if code == libc::BPF_RET | libc::BPF_K => return instruction.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

#[test]
fn every_rule_says_why_and_none_is_there_twice() {
    for kind in Kind::all() {
        let rules = Table::of(kind).rules;
        for (index, rule) in rules.iter().enumerate() {
            assert!(
                !rule.when.iter().any(|test| matches!(test, Test::OneOf(_, values) if values.is_empty()))
            );
            assert!(rule.why.len() >= 5, "{kind}: {} has no reason", rule.call.name());
            let twin = rules[..index].iter().find(|other| {
                other.call == rule.call
                    && (other.when.is_empty() || rule.when.is_empty() || other.when == rule.when)
            });
            assert!(
                twin.is_none(),
                "{kind}: {} is there twice, or once with tests and once without",
                rule.call.name()
            );
        }
    }
}

#[test]
fn a_thread_needs_nothing_that_its_process_is_refused() {
    let machine = Table::of(JailKind::Machine);
    for kind in ThreadKind::ALL {
        for rule in Table::of(kind).rules {
            assert!(
                machine.rules.iter().any(|known| known.matches_same(&rule)),
                "{kind:?}: {}",
                rule.call.name()
            );
        }
    }
}

#[test]
fn nobody_confined_opens_connects_starts_or_reaches_into_others() {
    let refused = [
        OPEN,
        OPENAT,
        OPENAT2,
        SOCKET,
        SOCKETPAIR,
        CONNECT,
        BIND,
        EXECVE,
        EXECVEAT,
        FORK,
        VFORK,
        PTRACE,
        PROCESS_VM_READV,
        PROCESS_VM_WRITEV,
        PIDFD_OPEN,
        PIDFD_GETFD,
        KILL,
        TKILL,
        MOUNT,
        UMOUNT2,
        UNSHARE,
        SETNS,
        CHROOT,
        BPF,
        USERFAULTFD,
        IO_URING_SETUP,
        IO_URING_ENTER,
        PKEY_MPROTECT,
        SHMAT,
        STATX,
        NEWFSTATAT,
        UNLINKAT,
    ];
    for kind in confined() {
        for call in refused {
            assert_verdict(kind, call, [0; 6], KILL_PROCESS);
        }
    }
}

#[test]
fn nobody_makes_code_and_the_mover_alone_reaches_tags() {
    for kind in confined() {
        for call in [MMAP, MPROTECT] {
            // Who starts no threads needs no mprotect at all.
            let needed = call == MMAP || kind == JailKind::Machine.into();
            let harmless = if needed { ALLOW } else { KILL_PROCESS };
            assert_verdict(kind, call, [0, 4096, 3, 0, 0, 0], harmless);
            for forbidden in [PROT_EXEC, PROT_MTE, PROT_EXEC | PROT_MTE] {
                let window = kind == JailKind::Mover.into() && call == MMAP && forbidden == PROT_MTE;
                let verdict = if window { ALLOW } else { KILL_PROCESS };
                assert_verdict(kind, call, [0, 4096, 3 | u64::from(forbidden), 0, 0, 0], verdict);
            }
        }
    }
    let control = Kind::Process(JailKind::Control);
    assert_verdict(control, MPROTECT, [0, 4096, PROT_MTE.into(), 0, 0, 0], KILL_PROCESS);
    // Its children inherit this, and the mover is one of them.
    assert_verdict(control, MMAP, [0, 4096, 3 | u64::from(PROT_MTE), 0, 0, 0], ALLOW);
    assert_verdict(control, MMAP, [0, 4096, 5, 0, 0, 0], ALLOW);
}

#[test]
fn only_the_machine_starts_threads_and_nobody_processes() {
    const SIGCHLD: u64 = 17;
    const CLONE_NEWUSER: u64 = 0x1000_0000;
    for kind in confined() {
        let starts_threads = kind == JailKind::Machine.into();
        let expected = if starts_threads { ALLOW } else { KILL_PROCESS };
        assert_verdict(kind, CLONE, [THREAD_FLAGS.into(), 0, 0, 0, 0, 0], expected);
        let thread = u64::from(THREAD_FLAGS);
        for flags in [SIGCHLD, thread | CLONE_NEWUSER, thread | 1 << 32, 0] {
            assert_verdict(kind, CLONE, [flags, 0, 0, 0, 0, 0], KILL_PROCESS);
        }
    }
}

#[test]
fn signals_go_to_the_own_process_only() {
    for kind in confined() {
        assert_verdict(kind, TGKILL, [PID.into(), 1, 9, 0, 0, 0], ALLOW);
        assert_verdict(kind, TGKILL, [u64::from(PID) + 1, 1, 9, 0, 0, 0], KILL_PROCESS);
    }
}

#[test]
fn a_vcpu_runs_the_guest_but_makes_no_vm_and_no_memslot() {
    use crate::ioctl::{KVM_CREATE_VM, KVM_RUN, KVM_SET_USER_MEMORY_REGION, TIOCSTI};
    let vcpu = Kind::Thread(ThreadKind::Vcpu);
    assert_verdict(vcpu, IOCTL, [5, KVM_RUN.into(), 0, 0, 0, 0], ALLOW);
    // The kernel reads 32 bits of the request, and so does the filter.
    assert_verdict(vcpu, IOCTL, [5, 1 << 32 | u64::from(KVM_RUN), 0, 0, 0, 0], ALLOW);
    for request in [KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, TIOCSTI] {
        assert_verdict(vcpu, IOCTL, [5, request.into(), 0, 0, 0, 0], KILL_PROCESS);
    }
    let device = Kind::Process(JailKind::Device(crate::kind::DeviceKind::Rng));
    assert_verdict(device, IOCTL, [5, KVM_RUN.into(), 0, 0, 0, 0], KILL_PROCESS);
}

#[test]
fn a_dropped_rule_is_refused_and_a_table_of_refusals_never_widens() {
    let table = Table::of(ThreadKind::Vcpu);
    let index = table.rules.iter().position(|rule| rule.call == IOCTL).unwrap();
    let rule = table.rules[index];
    let narrower = table.without(index).unwrap();
    assert!(!narrower.rules.iter().any(|other| other.matches_same(&rule)));
    assert!(Table::of(ThreadKind::Vcpu).without(usize::MAX).is_none());
    assert_eq!(Table::of(JailKind::Control).sense, Sense::Refuse);
    assert!(Table::of(JailKind::Control).without(0).is_none());
}

#[test]
fn every_call_of_a_table_is_found_and_no_other() {
    for (kind, arch) in Kind::all().flat_map(|kind| Arch::ALL.map(|arch| (kind, arch))) {
        let table = Table::of(kind);
        let program = filter::compile(&table, SeccompMode::Enforce, arch, PID).unwrap().unwrap();
        let otherwise = if table.sense == Sense::Allow { KILL_PROCESS } else { ALLOW };
        for number in 0..500 {
            let lines = table.rules.iter().filter(|rule| rule.call.number(arch) == Some(number));
            let unconditional = lines.clone().any(|rule| rule.when.is_empty());
            let answer = run(&program, arch, number, [0; 6]);
            match (lines.count(), unconditional) {
                (0, _) => assert_eq!(answer, otherwise, "{kind} on {arch:?}: call {number}"),
                (_, true) => assert_ne!(answer, otherwise, "{kind} on {arch:?}: call {number}"),
                (_, false) => {}
            }
        }
        assert!(program.len() < 1000, "{kind}: {} steps", program.len());
    }
}

/// What a test means, said once more and differently.
fn holds(test: Test, args: [u64; 6]) -> bool {
    let arg = |index: u8| args[usize::from(index)];
    match test {
        Test::Is(index, value) => arg(index) as u32 == value,
        Test::OneOf(index, values) => values.contains(&(arg(index) as u32)),
        Test::LongIs(index, value) => arg(index) == u64::from(value),
        Test::Without(index, mask) => arg(index) & u64::from(mask) == 0,
        Test::With(index, mask) => arg(index) & u64::from(mask) == u64::from(mask),
        Test::OwnPid(index) => arg(index) as u32 == PID,
    }
}

/// Numbers around those that a test names.
fn near(test: Test) -> (u8, Vec<u64>) {
    let (index, named) = match test {
        Test::Is(index, value) | Test::LongIs(index, value) => (index, vec![value]),
        Test::Without(index, value) | Test::With(index, value) => (index, vec![value]),
        Test::OneOf(index, values) => (index, values.to_vec()),
        Test::OwnPid(index) => (index, vec![PID]),
    };
    let around =
        |value: u64| [0, 1, value, value + 1, value ^ 1, value | 1 << 32, value | 0x40, !0, !0 ^ value];
    (index, named.into_iter().flat_map(|value| around(value.into())).collect())
}

#[test]
fn programs_do_what_their_tables_say() {
    for (kind, arch) in Kind::all().flat_map(|kind| Arch::ALL.map(|arch| (kind, arch))) {
        let table = Table::of(kind);
        let program = filter::compile(&table, SeccompMode::Enforce, arch, PID).unwrap().unwrap();
        for rule in &table.rules {
            let Some(number) = rule.call.number(arch) else { continue };
            for (index, values) in rule.when.iter().map(|test| near(*test)) {
                for value in values {
                    let mut args = [0; 6];
                    args[usize::from(index)] = value;
                    let mut lines = table.rules.iter().filter(|line| line.call == rule.call);
                    let matched = lines.any(|line| line.when.iter().all(|test| holds(*test, args)));
                    let allowed = matched == (table.sense == Sense::Allow);
                    let expected = if allowed { ALLOW } else { KILL_PROCESS };
                    let answer = run(&program, arch, number, args);
                    assert_eq!(answer, expected, "{kind} on {arch:?}: {} {args:x?}", rule.call.name());
                }
            }
        }
    }
}

#[test]
fn a_foreign_architecture_is_killed() {
    for kind in Kind::all() {
        let program =
            filter::compile(&Table::of(kind), SeccompMode::Enforce, Arch::X86_64, PID).unwrap().unwrap();
        // 32-bit arm's calls have other numbers.
        assert_eq!(run(&program, Arch::Aarch64, 1, [0; 6]), KILL_PROCESS, "{kind}");
    }
}

#[test]
fn mode_log_logs_and_mode_false_compiles_to_nothing() {
    let table = Table::of(ThreadKind::Vcpu);
    let program = filter::compile(&table, SeccompMode::Log, Arch::Aarch64, PID).unwrap().unwrap();
    assert_eq!(
        run(&program, Arch::Aarch64, OPENAT.number(Arch::Aarch64).unwrap(), [0; 6]),
        libc::SECCOMP_RET_LOG
    );
    assert!(filter::compile(&table, SeccompMode::Off, Arch::Aarch64, PID).unwrap().is_none());
}

#[test]
fn controls_children_may_ask_for_their_personality_but_nobody_makes_reading_imply_executing() {
    let control = JailKind::Control.into();
    assert_verdict(control, PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW);
    assert_verdict(control, PERSONALITY, [0, 0, 0, 0, 0, 0], ALLOW);
    assert_verdict(control, PERSONALITY, [0x0040_0000, 0, 0, 0, 0, 0], KILL_PROCESS);
}
