//! The event monitor: a file, a FIFO or an inherited descriptor, in the format that libvirt reads.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use granule_tests::folder::Folder;
use granule_tests::lab;
use granule_tests::monitor::Monitor;
use granule_tests::vm::Vm;

use crate::guest;

#[test]
fn a_device_tells_that_the_guest_uses_it() {
    let mut vm = Vm::boot(&guest().word("granule.run=rng"));
    vm.check("rng");
    let activated = vm.monitor.events().wait_for("virtio-device:activated");
    assert!(activated.properties["id"].as_str().is_some_and(|id| !id.is_empty()), "{activated:?}");
    vm.monitor.shutdown();
}

#[test]
fn time_stamps_do_not_run_backwards() {
    let vm = Vm::boot(&guest());
    vm.monitor.must("vm.pause");
    vm.monitor.must("vm.resume");
    let events = vm.monitor.events().all();
    assert!(events.is_sorted_by_key(|e| e.at), "{events:?}");
    vm.monitor.shutdown();
}

#[test]
fn events_reach_a_reader_of_a_fifo() {
    let folder = Folder::new();
    let path = folder.file("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let argument = format!("path={path}");
    let reader = std::thread::spawn(move || {
        BufReader::new(File::open(path).unwrap()).lines().map_while(Result::ok).collect::<Vec<_>>()
    });
    let monitor = Monitor::spawn(Stdio::null(), |own| {
        ["--api-socket", &own.file("api.sock"), "--event-monitor", &argument].map(str::to_owned).to_vec()
    });
    monitor.wait_ready();
    monitor.shutdown();
    let lines = reader.join().unwrap().join("\n");
    assert!(
        lines.contains("\"event\": \"starting\"") && lines.contains("\"event\": \"shutdown\""),
        "{lines}"
    );
}

#[test]
fn events_reach_an_inherited_descriptor() {
    let folder = Folder::new();
    // The shell opens descriptor 5 and becomes the monitor.
    let script = "exec 5>\"$1\"; exec \"$0\" --event-monitor fd=5 --api-socket \"$2\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).arg(lab::granule()).args([folder.file("events"), folder.file("api.sock")]);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let events = granule_tests::events::Events::new(folder.path().join("events"));
    events.wait_for("vmm:starting");
    let socket = folder.path().join("api.sock");
    let client = granule_tests::wait::until(granule_tests::wait::LONG, || {
        granule_tests::client::Client::connect(&socket).ok()
    });
    assert_eq!(client.unwrap().call("PUT", "/api/v1/vmm.shutdown", None).unwrap().code, 200);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(events.lifecycle(), ["vmm:starting", "vmm:shutdown"]);
}
