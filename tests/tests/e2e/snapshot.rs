//! Snapshots and restores: what a guest holds in memory, in tags and in registers is there afterwards, and what does not
//! fit is refused before anything changes.

use std::fs;
use std::path::Path;
use std::time::Instant;

use granule_tests::monitor::Monitor;
use granule_tests::session::{Session, value};
use granule_tests::vm::{Guest, Vm};
use serde_json::{Value, json};

use crate::guest;
use crate::serial::{join, talk};

pub const KILLED: &str = r#"{"wrong-load":{"si_code":9,"signal":11},"wrong-shared-store":{"si_code":9,"signal":11},"wrong-store":{"si_code":9,"signal":11}}"#;

pub fn url(path: &str) -> String {
    format!("file://{path}")
}

pub fn snapshot(monitor: &Monitor, path: &str) {
    let answer = monitor.send("vm.snapshot", &json!({"destination_url": url(path)}));
    assert_eq!(answer.code, 204, "{answer:?}; {}", monitor.errors());
}

/// Edits `config.json` as a runtime does.
pub fn edit_config(path: &str, change: impl FnOnce(&mut Value)) {
    let file = format!("{path}/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut config);
    fs::write(&file, config.to_string()).unwrap();
}

/// The serial port's socket is elsewhere.
pub fn move_serial(monitor: &Monitor, path: &str) {
    let socket = monitor.folder().file("serial.sock");
    edit_config(path, |config| config["serial"]["socket"] = socket.into());
}

/// Restores with another socket for the serial port.
pub fn restore(monitor: Monitor, path: &str, resume: bool) -> (Vm, Session) {
    move_serial(&monitor, path);
    let answer = monitor.send("vm.restore", &json!({"source_url": url(path), "resume": resume}));
    assert_eq!(answer.code, 204, "{answer:?}; {}", monitor.errors());
    restored(monitor)
}

/// What was restored, and its serial port.
pub fn restored(monitor: Monitor) -> (Vm, Session) {
    let console = granule_tests::console::Console::new(monitor.folder().path().join("console"));
    let vm = Vm { monitor, console };
    let session = join(&vm);
    (vm, session)
}

/// What the command line says of a snapshot of a guest with tags.
fn offline(path: &str, merged: &str) {
    let granule = |words: &[&str]| {
        let (status, out, err) = granule_tests::monitor::run(words);
        assert!(status.success(), "{words:?}: {status}: {err}");
        out
    };
    assert!(granule(&["snapshot", "verify", path]).contains("whole"));
    granule(&["snapshot", "merge", path, merged]);
    assert!(granule(&["snapshot", "verify", merged]).contains("whole"));
    let inspected = [path, merged].map(|path| {
        let text = granule(&["snapshot", "inspect", "--json", path]);
        let all: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"));
        all[0]["statistics"].clone()
    });
    println!("{}", inspected[0]);
    assert_eq!(inspected[0]["histogram"], inspected[1]["histogram"]);
    assert_ne!(inspected[0]["histogram"][7], 0, "some granule has tag 7");
    assert_ne!(inspected[0]["runs"]["pages"], 0);
}

pub fn kept(session: &mut Session) -> Value {
    let line = session.line("GRANULE keep ");
    let kept = value(&line);
    assert_eq!(kept["wrong"], 0, "{kept}");
    kept
}

/// Waits until the keepers have gone round several times, and nothing is wrong.
pub fn goes_on(session: &mut Session) -> Value {
    for _ in 0..3 {
        kept(session);
    }
    kept(session)
}

pub fn keeping(guest: &Guest, threads: u32) -> (Vm, Session) {
    let (vm, mut session) = talk(guest);
    session.say(&format!("keep {threads}"));
    goes_on(&mut session);
    (vm, session)
}

#[test]
fn a_guest_goes_on_in_another_process_with_every_tag() {
    let (vm, mut session) = keeping(&guest().vcpus(4), 4);
    let before = kept(&mut session);
    vm.monitor.must("vm.pause");
    let store = granule_tests::folder::Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    let progress = vm.monitor.events().wait_for("vm:progress").properties;
    assert_eq!(
        (&progress["what"], &progress["of"]),
        (&json!("snapshot"), &json!("65536")),
        "pages: {progress}"
    );
    let saved = Instant::now();
    vm.monitor.must("vm.delete");
    vm.monitor.shutdown();
    offline(&path, &store.file("merged"));

    let (vm, mut session) = restore(Monitor::start(), &path, false);
    assert_eq!(vm.monitor.state(), "Paused");
    let away = saved.elapsed();
    vm.monitor.must("vm.resume");
    let after = kept(&mut session);
    let (was, is) = (before["uptime"].as_f64().unwrap(), after["uptime"].as_f64().unwrap());
    assert!(is >= was, "time went back from {was} to {is}");
    let gap = after["gap_ms"].as_u64().unwrap();
    assert!(u128::from(gap) < away.as_millis().max(2_000), "the guest saw {gap} ms pass while it was a file");
    goes_on(&mut session);
    let mte = session.check("mte");
    assert_eq!(mte["victims"], serde_json::from_str::<Value>(KILLED).unwrap(), "{mte}");
    let rng = session.check("rng");
    assert_eq!((&rng["bytes"], &rng["repeats"]), (&json!(8192), &json!(false)), "{rng}");
    goes_on(&mut session);
    vm.monitor.shutdown();
}

/// A number that the environment may give instead of the one that is quick.
pub fn number(name: &str, quick: u64) -> u64 {
    std::env::var(name).ok().map_or(quick, |number| number.parse().unwrap())
}

/// A wrong tag still kills.
pub fn kills(session: &mut Session) {
    let mte = session.check("mte");
    assert_eq!(mte["victims"], serde_json::from_str::<Value>(KILLED).unwrap(), "{mte}");
}

#[test]
fn generations_of_snapshots_lose_nothing() {
    let (mut vm, mut session) = keeping(&guest().vcpus(2), 3);
    let store = granule_tests::folder::Folder::new();
    for generation in 0..number("GRANULE_SNAPSHOT_GENERATIONS", 4) {
        goes_on(&mut session);
        vm.monitor.must("vm.pause");
        let path = store.file(&format!("generation-{generation}"));
        snapshot(&vm.monitor, &path);
        vm.monitor.must("vm.delete");
        (vm, session) = restore(vm.monitor, &path, true);
        assert_eq!(vm.monitor.state(), "Running");
        fs::remove_dir_all(&path).unwrap();
        println!("generation {generation}: {}", kept(&mut session));
    }
    goes_on(&mut session);
    kills(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_was_saved_goes_on_where_it_is() {
    let (vm, mut session) = keeping(&guest().mte(true), 1);
    vm.monitor.must("vm.pause");
    let store = granule_tests::folder::Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    let again = vm.monitor.send("vm.snapshot", &json!({"destination_url": url(&path)}));
    assert_eq!(again.code, 400, "{again:?}");
    assert!(again.body.contains("is a snapshot already"), "{again:?}");
    let nowhere = vm.monitor.send("vm.snapshot", &json!({"destination_url": "file:///proc/none/x"}));
    assert_eq!(nowhere.code, 500, "{nowhere:?}");
    let wrong = vm.monitor.send("vm.snapshot", &json!({"destination_url": "/x"}));
    assert_eq!(wrong.code, 400, "{wrong:?}");
    snapshot(&vm.monitor, &store.file("two"));
    vm.monitor.must("vm.resume");
    let running = vm.monitor.send("vm.snapshot", &json!({"destination_url": url(&store.file("three"))}));
    assert_eq!(running.code, 405, "{running:?}");
    goes_on(&mut session);
    let rng = session.check("rng");
    assert_eq!(rng["bytes"], 8192, "{rng}");
    let left: Vec<_> = fs::read_dir(store.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing half is left: {left:?}");
    vm.monitor.shutdown();
}

#[test]
fn a_guest_without_tags_is_saved_and_restored() {
    let (vm, _session) = talk(&guest().mte(false));
    vm.monitor.must("vm.pause");
    let store = granule_tests::folder::Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    assert!(!Path::new(&path).join("tags").exists());
    edit_config(&path, |config| config["cpus"]["features"]["mte"] = true.into());
    let tagged = vm.monitor.send("vm.restore", &json!({"source_url": url(&path)}));
    assert_eq!(tagged.code, 400, "{tagged:?}");
    assert!(tagged.body.contains("without memory tagging, and the configuration has it on"), "{tagged:?}");
    assert_eq!(vm.monitor.get("vm.info").code, 404);
    edit_config(&path, |config| config["cpus"]["features"]["mte"] = false.into());
    let (vm, mut session) = restore(vm.monitor, &path, true);
    let cpus = session.check("cpus");
    assert_eq!(cpus["warnings"], json!([]), "{cpus}");
    vm.monitor.shutdown();
}

/// Changes one value of a JSON file.
pub fn edit(path: &str, pointer: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason_and_changes_nothing() {
    let (vm, _session) = talk(&guest());
    vm.monitor.must("vm.pause");
    let store = granule_tests::folder::Folder::new();
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    let exists = vm.monitor.send("vm.restore", &json!({"source_url": url(&path)}));
    assert_eq!(exists.code, 409, "{exists:?}");
    vm.monitor.must("vm.delete");
    let monitor = vm.monitor;
    let refused = |reason: &str| {
        let answer = monitor.send("vm.restore", &json!({"source_url": url(&path)}));
        assert_eq!(answer.code, 400, "{reason}: {answer:?}");
        assert!(answer.body.contains(reason), "{reason}: {answer:?}");
        assert_eq!(monitor.get("vm.info").code, 404, "{reason}");
    };
    let config = format!("{path}/config.json");
    let original = fs::read(&config).unwrap();
    edit(&config, "/cpus/features/mte", json!(false));
    refused("the configuration has it off");
    fs::write(&config, &original).unwrap();
    edit(&config, "/memory/size", json!(512 << 20));
    refused("memory.size");
    fs::write(&config, &original).unwrap();
    edit(&config, "/cpus/boot_vcpus", json!(2));
    edit(&config, "/cpus/max_vcpus", json!(2));
    refused("cpus.boot_vcpus");
    fs::write(&config, &original).unwrap();

    for (file, reason) in [("state.json", "state.json"), ("pages", "pages"), ("tags", "tags")] {
        let file = format!("{path}/{file}");
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        fs::write(&file, &flipped).unwrap();
        refused(reason);
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        refused(reason);
        fs::write(&file, &whole).unwrap();
    }
    let missing = monitor.send("vm.restore", &json!({"source_url": url(&store.file("none"))}));
    assert_eq!(missing.code, 400, "{missing:?}");
    let (vm, mut session) = restore(monitor, &path, true);
    session.say("echo unharmed");
    assert_eq!(session.line("GRANULE echo "), "unharmed");
    vm.monitor.shutdown();
}
