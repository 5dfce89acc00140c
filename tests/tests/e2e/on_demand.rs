//! vm.restore with `memory_restore_mode: OnDemand`: the guest runs before its memory is there, and never sees a page that is
//! not whole.

use std::fs;

use granule_tests::console::Console;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::processes::Process;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::disks::{Images, disk, with};
use crate::guest;
use crate::serial::{join, talk};
use crate::snapshot::{KILLED, goes_on, keeping, snapshot, url};

/// How often a restore is tried that is to be caught while pages are missing.
const TRIES: usize = 20;

pub fn restore(monitor: Monitor, path: &str) -> (Vm, Session) {
    let file = format!("{path}/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["serial"]["socket"] = monitor.folder().file("serial.sock").into();
    fs::write(&file, config.to_string()).unwrap();
    let body = json!({"source_url": url(path), "memory_restore_mode": "OnDemand", "resume": true});
    let answer = monitor.send("vm.restore", &body);
    assert_eq!(answer.code, 204, "{answer:?}; {}", monitor.errors());
    let console = Console::new(monitor.folder().path().join("console"));
    let vm = Vm { monitor, console };
    let session = join(&vm);
    (vm, session)
}

fn progress(monitor: &Monitor) -> Value {
    monitor.info()["memory_restore"].clone()
}

pub fn wait_settled(monitor: &Monitor) -> Value {
    let settled = wait::until(wait::LONG, || {
        let progress = progress(monitor);
        (progress["state"] != "Filling").then_some(progress)
    });
    settled.unwrap_or_else(|| panic!("memory does not become complete: {}", progress(monitor)))
}

/// Every page is there: the event tells, the mover is gone, nobody is registered any more.
pub fn complete(monitor: &Monitor) {
    let progress = wait_settled(monitor);
    assert_eq!(progress["state"], "Complete", "{progress}");
    assert_eq!(progress["done"], progress["pages"], "{progress}");
    println!("{progress}");
    monitor.events().wait_for("vm:memory-complete");
    let gone = wait::until(wait::SHORT, || mover(monitor).is_none().then_some(()));
    assert!(gone.is_some(), "the mover stays");
}

fn mover(monitor: &Monitor) -> Option<Process> {
    monitor.processes().into_iter().find(|process| process.role() == "mover")
}

#[test]
fn two_clones_run_before_their_memory_is_there_and_no_tag_is_wrong() {
    // Each vCPU has one who keeps tags, data and vectors.
    let images = Images::new();
    let image = with(disk(&images.filled("image", 7, 4 * MIB)), &json!({"readonly": true}));
    let (vm, _session) = keeping(&guest().vcpus(4).mte(true).set("/disks", vec![image]), 4);
    vm.monitor.must("vm.pause");
    let store = Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.shutdown();

    let mut clones = [restore(Monitor::start(), &path), restore(Monitor::start(), &path)];
    for (vm, session) in &mut clones {
        // The device's process writes to pages that the guest may not have touched yet.
        assert_eq!(session.check("disk:read:vda:7:0:4194304")["wrong"], 0);
        goes_on(session);
        complete(&vm.monitor);
        let metrics = vm.monitor.client().call("GET", "/metrics", None).unwrap();
        assert!(metrics.body.contains("granule_restore_faults_total "), "{}", metrics.body);
    }
    for (_, session) in &mut clones {
        let rng = session.check("rng");
        assert_eq!((&rng["bytes"], &rng["repeats"]), (&json!(8192), &json!(false)), "{rng}");
    }
    // Alone, what takes many turns of guest and device is quicker.
    let [(vm, mut session), (other, mut others)] = clones;
    goes_on(&mut others);
    other.monitor.shutdown();
    goes_on(&mut session);
    let mte = session.check("mte");
    assert_eq!(mte["victims"], serde_json::from_str::<Value>(KILLED).unwrap(), "{mte}");
    // What is not registered any more can be saved again.
    vm.monitor.must("vm.pause");
    snapshot(&vm.monitor, &store.file("again"));
    vm.monitor.must("vm.resume");
    goes_on(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn a_guest_whose_mover_dies_while_pages_are_missing_is_stopped_and_the_api_says_why() {
    let (vm, _session) = talk(&guest().mte(false));
    vm.monitor.must("vm.pause");
    let store = Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    let both = json!({"source_url": url(&path), "memory_restore_mode": "OnDemand", "prefault": true});
    let refused = vm.monitor.send("vm.restore", &both);
    assert_eq!((refused.code, refused.body.contains("prefault")), (400, true), "{refused:?}");

    let (vm, mut session) = restore(vm.monitor, &path);
    session.say("echo here");
    assert_eq!(session.line("GRANULE echo "), "here");
    complete(&vm.monitor);
    vm.monitor.must("vm.delete");

    let mut monitor = vm.monitor;
    for _ in 0..TRIES {
        let (vm, _session) = restore(monitor, &path);
        monitor = vm.monitor;
        if let Some(pid) = mover(&monitor).and_then(|mover| Pid::from_raw(mover.pid)) {
            kill_process(pid, Signal::STOP).unwrap();
            if progress(&monitor)["state"] == "Filling" {
                let early = monitor.send("vm.add-disk", &json!({"path": "/none"}));
                assert!(early.code == 405 && early.body.contains("being restored"), "{early:?}");
            }
            kill_process(pid, Signal::KILL).unwrap();
            let settled = wait_settled(&monitor);
            if settled["state"] == "Lost" {
                let reason = settled["reason"].as_str().unwrap_or_default().to_owned();
                assert!(reason.contains("process that moves memory died"), "{settled}");
                let event = monitor.events().wait_for("vm:memory-lost");
                assert_eq!(event.properties["reason"], reason, "{event:?}");
                let stopped = wait::until(wait::LONG, || (monitor.state() == "Created").then_some(()));
                assert!(stopped.is_some(), "the VM is {}", monitor.state());
                monitor.shutdown();
                return;
            }
        }
        monitor.must("vm.delete");
    }
    panic!("memory was always complete before the mover could be stopped");
}
