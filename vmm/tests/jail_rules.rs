//! No rule of a jail is there for nothing: each is left out in turn, and the process must fail at its work.
//!
//! ```text
//!   for each kind, for each line of its table
//!     granule device KIND (that line left out) ◄── vhost-user, orders ── a front end and a driver made by hand
//!                                               work as with the whole table, or SIGSYS
//! ```
//! What the work here does not lead to is listed by name, with the reason. What the language's runtime and the C
//! library may do in any process ([`Table::runtime`]) is shown to be needed in `seccomp/tests/jail`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests too: a panic is how they fail"
)]

#[path = "jail_rules/bench.rs"]
mod bench;
#[path = "jail_rules/mover.rs"]
mod mover;
#[path = "jail_rules/process.rs"]
mod process;
#[path = "jail_rules/vsock.rs"]
mod vsock;
#[path = "jail_rules/work.rs"]
mod work;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use granule_jail::rules::Table;
use granule_jail::{DeviceKind, JailKind, Kind};

/// Lines that the work here does not lead to, and what does.
fn elsewhere(kind: JailKind) -> &'static [(&'static str, &'static str)] {
    match kind {
        JailKind::Mover => &[
            #[cfg(not(target_arch = "aarch64"))]
            ("mmap", "a window on tags, which this architecture has not: e2e jail_machine"),
            ("ppoll", "placing pages under a guest that runs: e2e jail_machine"),
            ("read", "the same"),
            ("ioctl", "the same"),
        ],
        _ => &[],
    }
}

fn every_rule_is_needed(kind: JailKind, work: impl Fn(Option<&str>) -> Result<ExitStatus, process::Failed>) {
    let elsewhere = elsewhere(kind);
    let kind = Kind::Process(kind);
    assert!(work(None).expect("it works with the whole table").success());
    // On an emulated processor that would take minutes, and is the same table.
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    // The second is for guests that are restored on demand: e2e jail_machine.
    let runtime = [Table::runtime().rules, Table::late_memory().rules].concat();
    let mut unneeded = Vec::new();
    for (index, rule) in Table::of(kind).rules.iter().enumerate() {
        if runtime.iter().any(|known| known.matches_same(rule)) {
            continue;
        }
        let killed = match work(Some(&format!("{kind}:{index}"))) {
            Ok(status) => status.signal() == Some(libc::SIGSYS),
            Err(process::Failed) => true,
        };
        if !killed && !elsewhere.iter().any(|(call, _)| *call == rule.call.name()) {
            unneeded.push(format!("{} {:?} ({})", rule.call.name(), rule.when, rule.why));
        }
    }
    assert!(unneeded.is_empty(), "nothing that {kind} does needs {unneeded:#?}");
}

fn device(kind: DeviceKind) {
    every_rule_is_needed(JailKind::Device(kind), |dropped| work::of(kind, dropped));
}

#[test]
fn the_entropy_source_has_no_rule_too_many() {
    device(DeviceKind::Rng);
}

#[test]
fn the_disk_has_no_rule_too_many() {
    device(DeviceKind::Blk);
}

#[test]
fn the_console_has_no_rule_too_many() {
    device(DeviceKind::Console);
}

#[test]
fn the_watchdog_has_no_rule_too_many() {
    device(DeviceKind::Watchdog);
}

#[test]
fn persistent_memory_has_no_rule_too_many() {
    device(DeviceKind::Pmem);
}

#[test]
fn the_socket_device_has_no_rule_too_many() {
    device(DeviceKind::Vsock);
}

#[test]
fn the_network_device_has_no_rule_too_many() {
    device(DeviceKind::Net);
}

#[test]
fn the_balloon_has_no_rule_too_many() {
    device(DeviceKind::Balloon);
}

#[test]
fn pluggable_memory_has_no_rule_too_many() {
    device(DeviceKind::Mem);
}

#[test]
fn the_mover_has_no_rule_too_many() {
    every_rule_is_needed(JailKind::Mover, mover::run);
}
