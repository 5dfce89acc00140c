//! `kill -9` of any one process leaves no other behind, and a lost device costs the guest nothing but that device.

use granule_tests::vm::Vm;
use granule_tests::wait;

use crate::guest;
use crate::serial::talk;

#[test]
fn all_processes_are_there_while_a_guest_runs() {
    let vm = Vm::boot(&guest());
    let mut roles: Vec<_> =
        vm.monitor.processes().iter().map(granule_tests::processes::Process::role).collect();
    roles.sort();
    assert_eq!(roles, ["control", "device rng", "machine"]);
    vm.monitor.shutdown();
}

#[test]
fn the_death_of_machine_takes_all_others_along() {
    let vm = Vm::up(&guest());
    vm.monitor.process("machine").kill();
    let status = vm.monitor.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn the_death_of_machine_before_a_guest_is_created_takes_control_along() {
    let monitor = granule_tests::monitor::Monitor::start();
    monitor.process("machine").kill();
    monitor.wait();
}

#[test]
fn the_death_of_control_takes_all_others_along() {
    let vm = Vm::up(&guest());
    vm.monitor.process("control").kill();
    let status = vm.monitor.wait();
    assert!(!status.success(), "an end that nobody asked for is a failure: {status}");
}

#[test]
fn a_device_that_dies_is_replaced_and_the_guest_goes_on() {
    let (vm, mut session) = talk(&guest());
    assert_eq!(session.check("rng")["current"], "virtio_rng.0");
    let first = vm.monitor.process("device rng");
    first.kill();
    let second = wait::until(wait::LONG, || {
        let all = vm.monitor.processes();
        all.into_iter().find(|p| p.role() == "device rng" && p.pid != first.pid)
    });
    assert!(second.is_some(), "no new device process: {:?}", vm.monitor.processes());
    assert_eq!(vm.monitor.get("vmm.ping").code, 200);
    assert_eq!(vm.monitor.state(), "Running");
    let rng = session.check("rng");
    assert_eq!((&rng["bytes"], &rng["repeats"]), (&8192.into(), &false.into()), "{rng}");
    let events = vm.monitor.events().all();
    assert!(events.iter().any(|e| e.name() == "virtio-device:died"), "{events:?}");
    vm.monitor.shutdown();
}

#[test]
fn the_api_answers_while_a_device_hangs() {
    let vm = Vm::up(&guest());
    let device = vm.monitor.process("device rng");
    let pid = rustix::process::Pid::from_raw(device.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for name in ["vmm.ping", "vm.info"] {
        assert_eq!(vm.monitor.get(name).code, 200);
    }
    vm.monitor.must("vm.pause");
    vm.monitor.must("vm.resume");
    vm.monitor.shutdown();
}
