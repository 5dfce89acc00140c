//! The whole product, as a client and a guest see it, on an Arm host with KVM, tags and a kernel that shares them.
//!
//! `cargo test -p granule-tests --test e2e --target aarch64-unknown-linux-gnu` runs it in the lab.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

mod bad_input;
mod balloon;
mod boot;
mod cli;
mod clients;
mod console;
mod death;
mod debian;
mod deployment;
mod disks;
mod events;
mod external;
mod faults;
mod hostile;
mod hotplug;
mod hotplug_kinds;
mod jail;
mod jail_machine;
mod lifecycle;
mod memory;
mod metrics;
mod net;
mod on_demand;
mod pmem;
mod selftests;
mod serial;
mod snapshot;
mod snapshot_devices;
mod snapshot_golden;
mod snapshot_kill;
mod snapshot_live;
mod snapshot_refusals;
mod states;
mod tiny;
mod vsock;
mod watchdog;
mod wire;

use std::sync::LazyLock;

use granule_tests::vm::Guest;

/// The guest's first program, built with these tests; cargo's target folder is shared with the lab.
static INIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = env!("CARGO_BIN_EXE_guest-init");
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
});

/// A guest with one vCPU and tags.
fn guest() -> Guest {
    Guest::new(&INIT)
}
