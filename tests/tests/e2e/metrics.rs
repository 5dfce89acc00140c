//! What can be watched from outside: vm.counters and GET /metrics.

use std::time::{Duration, Instant};

use granule_tests::client::Client;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::vm::{MIB, Vm};
use serde_json::json;

use crate::guest;
use crate::serial::talk;

/// The text of `/metrics`.
pub fn page(mut client: Client) -> String {
    let answer = client.call("GET", "/metrics", None).unwrap();
    assert_eq!(answer.code, 200);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4"));
    answer.body
}

/// The value of the sample of this name and these labels.
pub fn sample(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_a_guest_reads_and_writes_is_counted() {
    let folder = Folder::new();
    std::fs::File::create(folder.path().join("image")).unwrap().set_len(4 * MIB).unwrap();
    let disk = json!({"path": folder.file("image"), "image_type": "Raw"});
    let (vm, mut session) = talk(&guest().set("/disks", vec![disk]));
    let counted = || vm.monitor.get("vm.counters").json()["_disk0"].clone();
    let before = counted();
    session.check(&format!("disk:write:vda:2:0:{MIB}"));
    session.check(&format!("disk:read:vda:2:0:{MIB}"));
    let after = counted();
    let grown = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
    assert_eq!(grown("write_bytes"), MIB);
    // The guest reads ahead.
    assert!((MIB..=4 * MIB).contains(&grown("read_bytes")), "{before} {after}");
    assert!(grown("write_ops") > 0 && grown("flush_ops") > 0, "{before} {after}");
    assert_eq!(grown("errors"), 0);
    // Every kind counts what its queues have carried.
    let rng = vm.monitor.get("vm.counters").json()["__rng"].clone();
    assert!(rng["requests"].as_u64() > Some(0) && rng["bytes_to_guest"].as_u64() > Some(0), "{rng}");
    assert_eq!(rng["queue_faults"], 0);
    assert!(grown("requests") > 0 && grown("bytes_from_guest") > MIB, "{before} {after}");

    let page = page(vm.monitor.client());
    let bytes = sample(&page, "granule_device{device=\"_disk0\",counter=\"write_bytes\"}");
    assert_eq!(bytes, after["write_bytes"].as_u64());
    assert_eq!(sample(&page, "granule_vm_state{state=\"running\"}"), Some(1));
    assert_eq!(sample(&page, "granule_vm_tagged"), Some(1));
    for reason in ["mmio_read", "mmio_write"] {
        let exits = sample(&page, &format!("granule_vcpu_exits_total{{reason=\"{reason}\"}}"));
        assert!(exits > Some(0), "{reason}: {exits:?}");
    }
    assert_eq!(sample(&page, "granule_device_restarts_total{device=\"_disk0\"}"), Some(0));
    assert!(
        sample(&page, "granule_boot_phase_microseconds{phase=\"payload\"}").is_some_and(|micros| micros > 0)
    );
    let control = sample(&page, "granule_process_resident_bytes{process=\"control\"}").unwrap();
    assert!((1 << 16..1 << 30).contains(&control), "{control}");
    vm.monitor.shutdown();
}

#[test]
fn a_monitor_without_a_guest_has_metrics_and_no_counters() {
    let monitor = Monitor::start();
    assert_eq!(sample(&page(monitor.client()), "granule_vm_state{state=\"absent\"}"), Some(1));
    assert_eq!(monitor.get("vm.counters").code, 404);
    monitor.shutdown();
}

#[test]
fn a_device_that_hangs_is_left_out_and_holds_nobody_up() {
    let vm = Vm::up(&guest());
    let pid = rustix::process::Pid::from_raw(vm.monitor.process("device rng").pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut client = vm.monitor.client();
    std::thread::scope(|scope| {
        let scraper = vm.monitor.client();
        let metrics = scope.spawn(|| page(scraper));
        let begun = Instant::now();
        assert_eq!(client.call("GET", "/api/v1/vmm.ping", None).unwrap().code, 200);
        let ping = begun.elapsed();
        let text = metrics.join().unwrap();
        assert_eq!(sample(&text, "granule_vm_state{state=\"running\"}"), Some(1));
        assert!(ping < Duration::from_secs(20), "the ping took {ping:?}");
    });
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    // The late answer is not taken for that of the next question.
    assert_eq!(vm.monitor.get("vm.counters").code, 200);
    vm.monitor.shutdown();
}
