//! Whoever dies while a snapshot is made or restored: on the disk there is a whole snapshot or none, what was there stays as
//! it was, and what runs is as the API says.

use std::fs;
use std::path::Path;

use granule_snapshot::directory::Snapshot;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::snapshot::{move_serial, number, restore, restored, snapshot, url};
use crate::tiny;

/// How often somebody is killed, unless GRANULE_SNAPSHOT_KILLS says otherwise.
const KILLS: u64 = 12;

/// Who is killed in turn.
const VICTIMS: [&str; 4] = ["mover", "control", "machine", "device rng"];

/// What is under way, in turn.
#[derive(Clone, Copy, Debug)]
enum Work {
    Save,
    Copy,
    OnDemand,
}

const WORKS: [Work; 3] = [Work::Save, Work::Copy, Work::OnDemand];

/// Numbers that are the same each time.
struct Moments(u64);

impl Moments {
    /// The next number below `end`.
    fn next(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Whether there is a snapshot; one that is there is whole.
fn is_there(path: &str) -> bool {
    if !Path::new(path).exists() {
        return false;
    }
    let snapshot = Snapshot::open(Path::new(path)).unwrap();
    snapshot.memory().unwrap().verify().unwrap();
    snapshot.state().unwrap();
    true
}

fn kill(monitor: &Monitor, victim: &str) {
    let found = monitor.processes().into_iter().find(|process| process.role() == victim);
    if let Some(pid) = found.and_then(|process| Pid::from_raw(process.pid)) {
        // It may have done its work meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Asks for something, and kills `victim` after so many looks at whether it is answered; answers the code if there was one,
/// and how many looks that were.
fn killing(monitor: &Monitor, (verb, body): (&str, &Value), victim: &str, looks: u64) -> (Option<u16>, u64) {
    let mut client = monitor.client();
    let path = format!("/api/v1/{verb}");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.call("PUT", &path, Some(&body.to_string())));
        let mut looked = 0;
        while looked < looks && !asked.is_finished() {
            looked += 1;
            std::thread::yield_now();
        }
        kill(monitor, victim);
        (asked.join().unwrap().ok().map(|answer| answer.code), looked)
    })
}

fn request(work: Work, base: &str, target: &str) -> (&'static str, Value) {
    match work {
        Work::Save => ("vm.snapshot", json!({"destination_url": url(target), "live": true})),
        Work::Copy => ("vm.restore", json!({"source_url": url(base), "resume": true})),
        Work::OnDemand => {
            let body = json!({"source_url": url(base), "resume": true, "memory_restore_mode": "OnDemand"});
            ("vm.restore", body)
        }
    }
}

/// A monitor in which the work can be asked for.
fn ready(work: Work, base: &str) -> Monitor {
    let monitor = Monitor::start();
    match work {
        Work::Save => restore(monitor, base, true).0.monitor,
        Work::Copy | Work::OnDemand => {
            move_serial(&monitor, base);
            monitor
        }
    }
}

#[test]
fn whoever_is_killed_there_is_a_whole_snapshot_or_none_and_the_api_tells_the_truth() {
    let (vm, _session) = tiny::boot();
    let store = Folder::new();
    let base = store.file("base");
    vm.monitor.must("vm.pause");
    snapshot(&vm.monitor, &base);
    vm.monitor.shutdown();
    // How long each takes if nobody is killed.
    let looks = WORKS.map(|work| {
        let (monitor, target) = (ready(work, &base), store.file("unharmed"));
        let (verb, body) = request(work, &base, &target);
        let (code, looks) = killing(&monitor, (verb, &body), "nobody", u64::MAX);
        assert_eq!(code, Some(204), "{work:?}: {}", monitor.errors());
        monitor.shutdown();
        looks
    });
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    for round in 0..number("GRANULE_SNAPSHOT_KILLS", KILLS) {
        let kind = usize::try_from(round).unwrap();
        let (work, victim) = (WORKS[kind % 3], VICTIMS[kind / 3 % 4]);
        let moment = moments.next(looks[kind % 3].max(1));
        let target = store.file(&format!("snapshot-{round}"));
        let monitor = ready(work, &base);
        let (verb, body) = request(work, &base, &target);
        let (code, _) = killing(&monitor, (verb, &body), victim, moment);
        println!("{round}: {work:?}, {victim} at {moment}: {code:?}");
        match (victim, work) {
            ("control" | "machine", _) => over(monitor, code, &target, &base, work),
            (_, Work::Save) => saved_or_not(monitor, code, &target),
            (_, Work::Copy | Work::OnDemand) => restored_or_not(monitor, code, &body),
        }
        assert!(is_there(&base), "{round}: {victim}");
        let _ = fs::remove_dir_all(&target);
    }
    let (vm, mut session) = restore(Monitor::start(), &base, true);
    tiny::is_right(&mut session);
    tiny::catches(&mut session);
    vm.monitor.shutdown();
}

/// All has ended with who was killed.
fn over(monitor: Monitor, code: Option<u16>, target: &str, base: &str, work: Work) {
    monitor.wait();
    drop(monitor);
    if !matches!(work, Work::Save) || is_there(target) {
        return;
    }
    // Without an answer it may be there or not.
    assert_ne!(code, Some(204), "there was an answer and is no snapshot");
    // What the dead have left is in nobody's way.
    let (vm, mut session) = restore(Monitor::start(), base, false);
    snapshot(&vm.monitor, target);
    assert!(is_there(target));
    vm.monitor.must("vm.resume");
    tiny::is_right(&mut session);
    vm.monitor.shutdown();
}

/// The guest runs on, and there is what the answer says.
fn saved_or_not(monitor: Monitor, code: Option<u16>, target: &str) {
    assert_eq!(code == Some(204), is_there(target), "{code:?}; {}", monitor.errors());
    assert_eq!(monitor.state(), "Running");
    let (vm, mut session) = restored(monitor);
    tiny::is_right(&mut session);
    vm.monitor.shutdown();
}

/// The guest runs, or there is none and may be one the next time, or it was stopped because memory was missing.
fn restored_or_not(monitor: Monitor, code: Option<u16>, body: &Value) {
    if code != Some(204) {
        assert_eq!((code, monitor.get("vm.info").code), (Some(500), 404), "{}", monitor.errors());
        assert_eq!(monitor.send("vm.restore", body).code, 204, "{}", monitor.errors());
    }
    let settled = wait::until(wait::LONG, || {
        let info = monitor.info();
        match (info["memory_restore"]["state"].as_str(), info["state"].as_str()) {
            (Some("Lost"), Some("Created")) => Some(false),
            (Some("Complete") | None, Some("Running")) => Some(true),
            _ => None,
        }
    });
    match settled {
        Some(true) => {
            let (vm, mut session) = restored(monitor);
            tiny::is_right(&mut session);
            vm.monitor.shutdown();
        }
        Some(false) => monitor.shutdown(),
        None => panic!("{}", monitor.info()),
    }
}
