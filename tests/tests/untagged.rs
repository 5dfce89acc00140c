//! Hosts on which a guest cannot have tags on shared memory, and why: a kernel before 6.2, or a machine without MTE.
//!
//! `scripts/test` runs these with `--features untagged-host`, once on each such host of the lab
//! (`GRANULE_LAB_HOST=6.1`, `GRANULE_LAB_MTE=0`); without the feature they are not built.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

use std::env;
use std::sync::LazyLock;

use granule_tests::monitor::{Monitor, run};
use granule_tests::vm::{Guest, Vm};
use serde_json::{Value, json};

static INIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = env!("CARGO_BIN_EXE_guest-init");
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
});

/// A guest that says nothing about tags, and names no initial module: the guest's kernel is the same on all hosts.
fn guest() -> Guest {
    Guest::new(&INIT).word("granule.run=mte,rng,cpus")
}

/// A word of the reason why this host gives no tags.
fn reason() -> &'static str {
    match (env::var("GRANULE_LAB_MTE").as_deref(), env::var("GRANULE_LAB_HOST").as_deref()) {
        (Ok("0"), _) => "MTE",
        (_, Ok("6.1")) => "MAP_SHARED",
        other => panic!("this host gives tags (GRANULE_LAB_MTE, GRANULE_LAB_HOST: {other:?})"),
    }
}

fn tells_why(text: &Value) {
    let text = text.to_string();
    assert!(text.contains(reason()), "{:?} is not in {text}", reason());
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
    let pong = monitor.get("vmm.ping").json();
    assert_eq!(pong["mte"]["available"], false);
    assert!(!pong["features"].as_array().unwrap().contains(&json!("mte")), "{pong}");
    tells_why(&pong["mte"]["reason"]);
    monitor.shutdown();
    let (status, output, errors) = run(&["probe", "--json"]);
    assert_eq!(status.code(), Some(0), "{errors}");
    tells_why(&serde_json::from_str(&output).unwrap());
}

#[test]
fn a_guest_from_flags_that_asks_for_tags_ends_with_the_reason() {
    let monitor =
        Monitor::spawn(std::process::Stdio::null(), |folder| guest().mte(true).flags(folder, "null"));
    let status = monitor.wait();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    tells_why(&json!(monitor.errors()));
}
