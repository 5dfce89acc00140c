//! Guests that mean ill, and device processes that do: the machine lives on, and the API answers within a second.
//!
//! docs/threat-model.md has the classes.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use granule_tests::client::Client;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use granule_tests::vm::{Guest, MIB, Vm};
use granule_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::disks::{Images, disk, with};
use crate::guest;
use crate::serial::{join, talk};

/// What a client may be made to wait, by the contract.
const ANSWER: Duration = Duration::from_secs(1);

/// A guest whose first program may map any register.
fn hostile_guest() -> Guest {
    guest().word("iomem=relaxed")
}

/// The function of a device.
pub fn bdf(monitor: &Monitor, id: &str) -> String {
    monitor.info()["device_tree"][format!("_virtio-pci-{id}")]["pci_bdf"].as_str().unwrap().to_owned()
}

/// The machine is as it was: the same processes, and an API that answers in time.
pub fn stands(vm: &Vm) {
    for name in ["vmm.ping", "vm.info"] {
        let since = Instant::now();
        assert_eq!(vm.monitor.get(name).code, 200, "{}", vm.monitor.errors());
        assert!(since.elapsed() < ANSWER, "{name} took {:?}", since.elapsed());
    }
    assert_eq!(vm.monitor.state(), "Running");
}

pub fn serves_entropy(session: &mut Session) {
    let rng = session.check("rng");
    assert_eq!((&rng["bytes"], &rng["repeats"]), (&8192.into(), &false.into()), "{rng}");
}

#[test]
fn a_queue_that_is_changed_once_it_is_live_stays_as_it_was() {
    let (vm, mut session) = talk(&hostile_guest());
    let seen = session.check(&format!("hostile:late:{}", bdf(&vm.monitor, "__rng")));
    assert_eq!(seen["changed"], json!([]), "{seen}");
    serves_entropy(&mut session);
    stands(&vm);
    vm.monitor.shutdown();
}

#[test]
fn rings_where_no_memory_is_are_refused() {
    let (vm, mut session) = talk(&hostile_guest());
    let seen = session.check(&format!("hostile:places:{}", bdf(&vm.monitor, "__rng")));
    assert_eq!((&seen["refused"], &seen["accepted"]), (&36.into(), &0.into()), "{seen}");
    serves_entropy(&mut session);
    stands(&vm);
    vm.monitor.shutdown();
}

#[test]
fn every_bad_chain_is_given_back_or_ends_in_a_reset() {
    let images = Images::new();
    let image = images.filled("image", 1, 4 * MIB);
    let (vm, mut session) = talk(&hostile_guest().set("/disks", vec![disk(&image)]));
    for id in ["__rng", "_disk0"] {
        let seen = session.check(&format!("hostile:chains:{}", bdf(&vm.monitor, id)));
        assert_eq!(seen["lost"], json!([]), "{id}: {seen}");
        assert!(seen["used"].as_u64().unwrap() > 60, "{id}: {seen}");
        stands(&vm);
    }
    serves_entropy(&mut session);
    assert_eq!(images.wrong("image", 1, 0, 4 * MIB), 0, "no bad request has changed the disk");
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_breaks_its_rings_is_told_to_reset_the_device() {
    let (vm, mut session) = talk(&hostile_guest());
    let process = vm.monitor.process("device rng").pid;
    let seen = session.check(&format!("hostile:rings:{}", bdf(&vm.monitor, "__rng")));
    assert!(seen.as_object().unwrap().values().all(|told| *told == true), "{seen}");
    let told = vm.monitor.events().all().iter().filter(|e| e.name() == "virtio-device:needs-reset").count();
    assert_eq!(told, 4);
    serves_entropy(&mut session);
    assert_eq!(vm.monitor.process("device rng").pid, process, "its process is not at fault");
    stands(&vm);
    vm.monitor.shutdown();
}

#[test]
fn any_register_at_any_width_and_any_doorbell_is_survived() {
    let (vm, mut session) = talk(&hostile_guest());
    let rng = bdf(&vm.monitor, "__rng");
    assert!(session.check(&format!("hostile:registers:{rng}"))["accesses"].as_u64() > Some(10_000));
    stands(&vm);
    serves_entropy(&mut session);
    assert_eq!(session.check(&format!("hostile:notify:{rng}"))["used"], true);
    stands(&vm);
    serves_entropy(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn a_configuration_space_full_of_nonsense_is_mended_by_a_reset_of_the_guest() {
    let (vm, mut session) = talk(&hostile_guest());
    let seen = session.check(&format!("hostile:configuration:{}", bdf(&vm.monitor, "__rng")));
    assert!(seen["accesses"].as_u64() > Some(10_000), "{seen}");
    stands(&vm);
    session.say("reboot");
    vm.monitor.events().wait_for("vm:rebooted");
    let mut session = join(&vm);
    session.line("GRANULE serving");
    serves_entropy(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn a_reset_with_requests_under_way_loses_no_device() {
    let images = Images::new();
    let image = images.filled("image", 1, 4 * MIB);
    let (vm, mut session) = talk(&hostile_guest().set("/disks", vec![disk(&image)]));
    for id in ["_disk0", "__rng"] {
        assert_eq!(session.check(&format!("hostile:in-flight:{}", bdf(&vm.monitor, id)))["rounds"], 60);
        stands(&vm);
    }
    serves_entropy(&mut session);
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    vm.monitor.shutdown();
}

#[test]
fn a_read_only_disk_is_read_only_whatever_is_asked_of_its_process() {
    let images = Images::new();
    let image = images.filled("image", 1, MIB);
    let readonly = with(disk(&image), &json!({"readonly": true}));
    let (vm, mut session) = talk(&hostile_guest().set("/disks", vec![readonly]));
    let seen = session.check(&format!("hostile:read-only:{}", bdf(&vm.monitor, "_disk0")));
    // 1: error, 2: not supported.
    let refused = |status: &Value| *status == 1 || *status == 2;
    assert!(seen.as_object().unwrap().values().all(refused), "{seen}");
    assert_eq!(images.wrong("image", 1, 0, MIB), 0);
    stands(&vm);
    vm.monitor.shutdown();
}

#[test]
fn a_device_process_that_goes_silent_delays_no_answer_and_is_replaced() {
    let (vm, mut session) = talk(&guest());
    let stopped = vm.monitor.process("device rng");
    kill_process(Pid::from_raw(stopped.pid).unwrap(), Signal::STOP).unwrap();
    // The driver leaves, and waits for a device that does not answer.
    session.say(&format!("run hostile:late:{}", bdf(&vm.monitor, "__rng")));
    let replaced = wait::until(wait::LONG, || {
        stands(&vm);
        let all = vm.monitor.processes();
        all.into_iter().find(|p| p.role() == "device rng" && p.pid != stopped.pid)
    });
    assert!(replaced.is_some(), "no new device process: {:?}", vm.monitor.processes());
    session.line("GRANULE ok hostile:late:");
    serves_entropy(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn programs_that_speak_no_vhost_user_cannot_be_added_and_hold_nobody_up() {
    let (vm, mut session) = talk(&guest());
    let before = (vm.monitor.info(), vm.monitor.processes().len());
    // A reply to GET_FEATURES of 4 GiB.
    let huge: Vec<u8> = [1, 5, u32::MAX, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let folder = Folder::new();
    let peers =
        [("silent", None), ("nonsense", Some(vec![0xff; 64])), ("huge", Some(huge)), ("gone", Some(vec![]))];
    for (name, answer) in peers {
        let path = folder.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            while stream.read(&mut request).is_ok_and(|count| count > 0) {
                match &answer {
                    None => {}
                    Some(bytes) if bytes.is_empty() => return,
                    // Whoever does not listen any more need not hear it.
                    Some(bytes) => drop(stream.write_all(bytes)),
                }
            }
        });
        let body = json!({"socket": path, "queue_sizes": [64], "device_type": 4}).to_string();
        let socket = vm.monitor.socket();
        let asked = std::thread::spawn(move || {
            let mut client = Client::connect(&socket).unwrap();
            client.call("PUT", "/api/v1/vm.add-generic-vhost-user", Some(&body)).unwrap()
        });
        while !asked.is_finished() {
            stands(&vm);
        }
        let answer = asked.join().unwrap();
        assert!((400..600).contains(&answer.code), "{name}: {answer:?}");
        peer.join().unwrap();
        assert_eq!((vm.monitor.info(), vm.monitor.processes().len()), before, "{name}");
    }
    serves_entropy(&mut session);
    vm.monitor.shutdown();
}
