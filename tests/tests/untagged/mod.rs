//! What holds on every host that cannot give a guest tags on shared memory; `crate::REASON` is a word of the reason.

use std::sync::LazyLock;

use granule_tests::folder::Folder;
use granule_tests::golden;
use granule_tests::monitor::{Monitor, run};
use granule_tests::vm::{Guest, Vm};
use serde_json::{Value, json};

use crate::REASON;

static INIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = env!("CARGO_BIN_EXE_guest-init");
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
});

/// A guest that says nothing about tags, and names no initial module: the guest's kernel is the same on all hosts.
fn guest() -> Guest {
    Guest::new(&INIT).word("granule.run=mte,rng,cpus")
}

/// The reason is told, and this is the host that the tests are about.
fn tells_why(text: &Value) {
    let text = text.to_string();
    assert!(text.contains(REASON), "{REASON:?} is not in {text}");
}

#[test]
fn tags_that_are_asked_for_are_refused_with_the_reason_and_nothing_stays() {
    let monitor = Monitor::start();
    let before = monitor.processes();
    let answer = monitor.send("vm.create", &guest().mte(true).body(&monitor));
    assert_eq!(answer.code, 400, "{answer:?}");
    assert!(answer.causes().iter().any(|c| c.contains("cpus.features.mte")), "{answer:?}");
    tells_why(&answer.json());
    assert_eq!(monitor.get("vm.info").code, 404);
    assert_eq!(monitor.processes(), before);
    monitor.shutdown();
}

#[test]
fn auto_boots_without_tags_and_vm_info_says_why() {
    let mut vm = Vm::up(&guest().mte("auto"));
    assert_eq!(vm.check("mte"), json!({"present": false, "prot_mte": false, "tag_checks": false}));
    assert_eq!(vm.check("rng")["current"], "virtio_rng.0");
    assert_eq!(vm.check("cpus")["warnings"], json!([]));
    let mte = &vm.monitor.info()["mte"];
    assert_eq!((&mte["requested"], &mte["enabled"]), (&json!("auto"), &json!(false)), "{mte}");
    tells_why(&mte["reason"]);
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_wants_no_tags_boots_as_anywhere() {
    let mut vm = Vm::up(&guest().mte(false).vcpus(2));
    assert_eq!(vm.check("mte")["present"], false);
    vm.monitor.shutdown();
}

#[test]
fn ping_and_probe_tell_what_is_missing() {
    let monitor = Monitor::start();
    let pong = monitor.wait_probed();
    assert_eq!(pong["mte"]["available"], false);
    assert!(!pong["features"].as_array().unwrap().contains(&json!("mte")), "{pong}");
    tells_why(&pong["mte"]["reason"]);
    monitor.shutdown();
    let (status, output, errors) = run(&["probe", "--json"]);
    assert_eq!(status.code(), Some(0), "{errors}");
    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(report["kvm"].is_object(), "{report}");
    tells_why(&json!(run(&["probe"]).1));
}

#[test]
fn a_guest_from_flags_that_asks_for_tags_ends_with_the_reason() {
    let monitor =
        Monitor::spawn(std::process::Stdio::null(), |folder| guest().mte(true).flags(folder, "null"));
    let status = monitor.wait();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    tells_why(&json!(monitor.errors()));
}

#[test]
fn a_snapshot_with_tags_is_refused_whatever_its_configuration_says_and_nothing_stays() {
    let store = Folder::new();
    let path = store.file("golden");
    golden::unpack(&path);
    let file = format!("{path}/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let monitor = Monitor::start();
    let before = monitor.processes();
    for mte in [json!(true), json!("auto"), json!(false)] {
        config["cpus"]["features"]["mte"] = mte.clone();
        std::fs::write(&file, config.to_string()).unwrap();
        for mode in ["Copy", "OnDemand"] {
            let body = json!({"source_url": format!("file://{path}"), "memory_restore_mode": mode});
            let answer = monitor.send("vm.restore", &body);
            assert_eq!(answer.code, 400, "{mte}, {mode}: {answer:?}");
            let reason = "with memory tagging, which this host does not have for guests";
            assert!(answer.body.contains(reason), "{mte}, {mode}: {answer:?}");
            assert_eq!(monitor.get("vm.info").code, 404, "{mte}, {mode}");
        }
    }
    assert_eq!(monitor.processes(), before);
    monitor.shutdown();
}
