//! The balloon: memory that the guest gives back is the host's again, and comes back empty.

use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use serde_json::json;

use crate::guest;
use crate::serial::talk;

const KIB: u64 = 1024;

/// KiB that the guest's memory takes on the host.
pub fn memory_kib(vm: &Vm) -> u64 {
    let machine = vm.monitor.process("machine");
    let fds = machine.descriptors();
    let number = fds.iter().find(|(_, file)| file.contains("granule-ram")).map(|(number, _)| *number);
    let path = format!("/proc/{}/fd/{}", machine.pid, number.expect("RAM has a file"));
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) / 2
}

pub fn wait_actual(vm: &Vm, bytes: u64) {
    let actual = || vm.monitor.info()["memory_actual_size"].as_u64().unwrap();
    let reached = wait::until(wait::LONG, || (actual() == bytes).then_some(()));
    assert!(reached.is_some(), "memory_actual_size is {}, not {bytes}", actual());
}

#[test]
fn memory_goes_into_the_balloon_and_comes_back_without_tags() {
    let balloon = json!({"size": 0, "deflate_on_oom": true});
    let (vm, mut session) = talk(&guest().set("/balloon", balloon));
    // Tags and data all over memory, which is free again when this check is over.
    session.check("mte");
    let free = session.check("balloon")["free_kib"].as_u64().unwrap();
    let before = memory_kib(&vm);
    let size = 96 * MIB;
    let resized = vm.monitor.send("vm.resize", &json!({"desired_balloon": size}));
    assert_eq!(resized.code, 204, "{resized:?}");
    wait_actual(&vm, 256 * MIB - size);
    // A guest of its own accord drops a few MiB of what it had cached.
    session.check(&format!("balloon:less:{}", free - 72 * KIB));
    // What the guest had never touched was not there to be freed.
    assert!(memory_kib(&vm) <= before, "{before} KiB, then {} KiB", memory_kib(&vm));
    assert!(memory_kib(&vm) <= (256 - 96) * KIB, "{} KiB are not given back", memory_kib(&vm));
    let resized = vm.monitor.send("vm.resize", &json!({"desired_balloon": 0}));
    assert_eq!(resized.code, 204, "{resized:?}");
    wait_actual(&vm, 256 * MIB);
    session.check(&format!("balloon:more:{}", free - 24 * KIB));
    // Fresh pages have no tag, and hold those that they are given.
    let mte = session.check("mte");
    for kind in ["anonymous", "shared"] {
        assert_eq!((&mte[kind]["fresh_tagged"], &mte[kind]["wrong_tags"]), (&json!(0), &json!(0)), "{mte}");
    }
    vm.monitor.shutdown();
}

#[test]
fn a_balloon_has_its_size_from_the_start_and_pages_are_reported() {
    let balloon = json!({"size": 64 * MIB, "free_page_reporting": true});
    let (vm, mut session) = talk(&guest().set("/balloon", balloon));
    session.check("balloon");
    wait_actual(&vm, 192 * MIB);
    let refused = vm.monitor.send("vm.resize", &json!({"desired_balloon": 257 * MIB}));
    assert_eq!(refused.code, 400, "{refused:?}");
    assert_eq!(vm.monitor.info()["config"]["balloon"]["id"], "_balloon0");
    // What the guest has used and freed comes back to the host by itself.
    session.check("mte");
    let few = wait::until(wait::LONG, || (memory_kib(&vm) < 150 * KIB).then_some(()));
    assert!(few.is_some(), "{} KiB are still held", memory_kib(&vm));
    vm.monitor.shutdown();
}
