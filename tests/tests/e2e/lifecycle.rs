//! From create to the end and back: states, events, exit codes, leftovers.

use granule_tests::events::Events;
use granule_tests::monitor::Monitor;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest;

/// The lifecycle events of a guest that was booted and then left alone.
const BOOTED: [&str; 3] = ["vmm:starting", "vm:booting", "vm:booted"];
/// The events of an orderly end.
const ENDED: [&str; 3] = ["vm:shutdown", "vm:deleted", "vmm:shutdown"];

/// Ends the monitor by itself or by `end`, and checks exit code, leftovers and the events of the whole life.
fn ends_well(monitor: Monitor, between: &[&str]) {
    let file = monitor.folder().file("events");
    let kept = granule_tests::folder::Folder::new();
    let copy = kept.file("events");
    let status = monitor.wait();
    assert_eq!(status.code(), Some(0), "{}", monitor.errors());
    std::fs::copy(file, &copy).unwrap();
    assert_eq!(monitor.finish().code(), Some(0));
    let expected: Vec<&str> = BOOTED.iter().chain(between).chain(&ENDED).copied().collect();
    assert_eq!(Events::new(copy.into()).lifecycle(), expected);
}

#[test]
fn a_monitor_without_a_guest_ends_when_told() {
    Monitor::start().shutdown();
}

#[test]
fn a_created_guest_can_be_deleted_and_created_again() {
    let vm = Vm::create(&guest());
    assert_eq!(vm.monitor.state(), "Created");
    vm.monitor.must("vm.delete");
    assert_eq!(vm.monitor.get("vm.info").code, 404);
    vm.monitor.must("vm.delete");
    assert_eq!(vm.monitor.send("vm.create", &guest().body(&vm.monitor)).code, 204);
    assert_eq!(vm.monitor.state(), "Created");
    vm.monitor.shutdown();
}

#[test]
fn a_paused_guest_stands_still_and_a_resumed_one_goes_on() {
    let mut vm = Vm::boot(&guest().vcpus(2).word("granule.tick=5"));
    assert_eq!(vm.monitor.state(), "Running");
    vm.line("GRANULE tick 3");
    vm.monitor.must("vm.pause");
    assert_eq!(vm.monitor.state(), "Paused");
    let still = |vm: &Vm| {
        let threads = vm.monitor.process("machine").threads();
        let ran =
            threads.iter().filter(|t| t.name.starts_with("vcpu")).map(granule_tests::processes::Thread::ran);
        (ran.collect::<Vec<_>>(), vm.console.text().len())
    };
    let before = still(&vm);
    assert_eq!(before.0.len(), 2);
    for _ in 0..50 {
        assert_eq!(vm.monitor.get("vmm.ping").code, 200);
        assert_eq!(vm.monitor.state(), "Paused");
    }
    assert_eq!(still(&vm), before, "(nanoseconds of each vCPU, bytes of the console) while paused");
    vm.monitor.must("vm.resume");
    assert_eq!(vm.monitor.state(), "Running");
    let said = vm.console.text().matches("GRANULE tick ").count();
    vm.line(&format!("GRANULE tick {}", said + 3));
    assert_eq!(vm.console.text().matches("GRANULE init up").count(), 1, "it went on, it did not start over");
    let events = vm.monitor.events().lifecycle();
    assert_eq!(events[3..], ["vm:pausing", "vm:paused", "vm:resuming", "vm:resumed"]);
    vm.monitor.shutdown();
}

#[test]
fn a_shut_down_guest_can_be_booted_again_and_have_another_size() {
    let mut vm = Vm::boot(&guest().mte("auto").set("/cpus/max_vcpus", 2));
    let first = vm.wait_up();
    vm.monitor.must("vm.shutdown");
    assert_eq!(vm.monitor.state(), "Created");
    assert_eq!(vm.monitor.processes().len(), 2, "machine and control alone: {:?}", vm.monitor.processes());
    let resize = |body: &Value| vm.monitor.send("vm.resize", body).code;
    assert_eq!(resize(&json!({"desired_vcpus": 3})), 400);
    assert_eq!(resize(&json!({"desired_vcpus": 2, "desired_ram": 4097})), 400);
    assert_eq!(vm.monitor.info()["config"]["cpus"]["boot_vcpus"], 1, "what is refused changes nothing");
    assert_eq!(resize(&json!({"desired_vcpus": 2, "desired_ram": 384 * MIB})), 204);
    vm.monitor.must("vm.boot");
    assert_eq!(vm.monitor.state(), "Running");
    let second = vm.wait_up_after(&first);
    assert!(
        second["memory_kib"].as_u64() > Some(first["memory_kib"].as_u64().unwrap() + 100 * 1024),
        "{second}"
    );
    let vcpus =
        vm.monitor.process("machine").threads().into_iter().filter(|thread| thread.name.starts_with("vcpu"));
    assert_eq!(vcpus.count(), 2);
    assert_eq!(vm.monitor.send("vm.resize", &json!({"desired_vcpus": 1})).code, 400, "it runs");
    assert_eq!(vm.monitor.put("vmm.shutdown").code, 200);
    ends_well(vm.monitor, &["vm:shutdown", "vm:booting", "vm:booted"]);
}

#[test]
fn a_paused_guest_can_be_shut_down() {
    let vm = Vm::boot(&guest());
    vm.monitor.must("vm.pause");
    vm.monitor.must("vm.shutdown");
    assert_eq!(vm.monitor.state(), "Created");
    vm.monitor.shutdown();
}

#[test]
fn a_running_guest_can_be_deleted() {
    let vm = Vm::up(&guest());
    vm.monitor.must("vm.delete");
    assert_eq!(vm.monitor.get("vm.info").code, 404);
    assert_eq!(vm.monitor.processes().len(), 2, "machine and control alone: {:?}", vm.monitor.processes());
    let events = vm.monitor.events().lifecycle();
    assert_eq!(events[3..], ["vm:shutdown", "vm:deleted"]);
    vm.monitor.shutdown();
}

#[test]
fn a_reboot_over_the_api_starts_the_guest_over() {
    let mut vm = Vm::boot(&guest());
    let first = vm.wait_up();
    vm.monitor.must("vm.reboot");
    assert_eq!(vm.monitor.state(), "Running");
    vm.wait_up_after(&first);
    let events = vm.monitor.events().lifecycle();
    assert_eq!(events[3], "vm:rebooting");
    assert_eq!(events.last().map(String::as_str), Some("vm:rebooted"));
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_reboots_is_rebooted_in_place() {
    let mut vm = Vm::boot(&guest().word("granule.then=reboot"));
    let first = vm.wait_up();
    vm.monitor.events().wait_for("vm:rebooted");
    vm.wait_up_after(&first);
    assert_eq!(vm.monitor.pid(), vm.monitor.process("machine").pid);
    vm.monitor.shutdown();
}

#[test]
fn a_panicking_guest_is_rebooted_in_place() {
    let mut vm = Vm::boot(&guest().word("panic=1").word("granule.then=panic"));
    let first = vm.wait_up();
    vm.monitor.events().wait_for("vm:rebooting");
    vm.monitor.events().wait_for("vm:rebooted");
    vm.wait_up_after(&first);
    vm.wait_state("Running");
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_powers_off_ends_the_monitor() {
    let vm = Vm::boot(&guest().vcpus(2).word("granule.then=poweroff"));
    ends_well(vm.monitor, &[]);
}

#[test]
fn the_power_button_reaches_the_guest() {
    let mut vm = Vm::boot(&guest().word("granule.then=power-button"));
    vm.line("GRANULE ready power ");
    vm.monitor.must("vm.power-button");
    ends_well(vm.monitor, &[]);
}

#[test]
fn vmm_shutdown_ends_a_running_guest_and_everything_else() {
    let vm = Vm::up(&guest());
    assert_eq!(vm.monitor.put("vmm.shutdown").code, 200);
    ends_well(vm.monitor, &[]);
}

#[test]
fn sigterm_and_sigint_are_an_orderly_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let vm = Vm::boot(&guest());
        vm.monitor.signal(signal);
        ends_well(vm.monitor, &[]);
    }
}

#[test]
fn the_monitor_is_gone_within_the_three_seconds_that_runtimes_give_it() {
    let vm = Vm::up(&guest());
    let start = std::time::Instant::now();
    assert_eq!(vm.monitor.put("vmm.shutdown").code, 200);
    let status = vm.monitor.finish();
    // Three seconds of a real machine's; the emulated one may be ten times slower and shared with other tests.
    assert!(start.elapsed() < wait::SHORT, "it took {:?}", start.elapsed());
    assert_eq!(status.code(), Some(0));
}
