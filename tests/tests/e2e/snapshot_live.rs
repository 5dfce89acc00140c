//! Snapshots of a guest that runs, and snapshots of what has changed since another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use granule_snapshot::directory::{Chain, Snapshot};
use granule_snapshot::manifest::Parent;
use granule_tests::client::{Client, Response};
use granule_tests::folder::Folder;
use granule_tests::monitor::{self, Monitor};
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use serde_json::{Value, json};

use crate::disks::{Images, disk, with};
use crate::guest;
use crate::metrics;
use crate::on_demand;
use crate::snapshot::{KILLED, goes_on, keeping, restore, url};

/// What the disk has that the guest reads all the while.
const READ: u64 = 8 * MIB;

fn wanted(path: &str, parent: Option<&str>, live: bool) -> Value {
    let mut body = json!({"destination_url": url(path), "live": live});
    if let Some(parent) = parent {
        body["parent"] = url(parent).into();
    }
    body
}

fn must(monitor: &Monitor, body: &Value) {
    let answer = ask(monitor.client(), body);
    assert_eq!(answer.code, 204, "{answer:?}; {}", monitor.errors());
}

fn ask(mut client: Client, body: &Value) -> Response {
    client.call("PUT", "/api/v1/vm.snapshot", Some(&body.to_string())).unwrap()
}

/// Makes a live snapshot while the guest has its disk fill memory, again and again.
fn live(vm: &Vm, session: &mut Session, body: &Value) {
    let client = vm.monitor.client();
    std::thread::scope(|scope| {
        let made = scope.spawn(|| ask(client, body));
        while !made.is_finished() {
            let read = session.check(&format!("disk:read:vda:1:0:{READ}"));
            assert_eq!(read["wrong"], 0, "{read}");
        }
        let answer = made.join().unwrap();
        assert_eq!(answer.code, 204, "{answer:?}; {}", vm.monitor.errors());
    });
}

/// What was told of the last live snapshot.
fn told(vm: &Vm) -> Value {
    let events = vm.monitor.events().all();
    let last = events.iter().rev().find(|event| event.name() == "vm:snapshotted").unwrap();
    println!("{}", last.properties);
    last.properties.clone()
}

/// The guest of a snapshot keeps what it kept and has what its disk has filled, and a wrong tag still kills.
fn is_right((vm, mut session): (Vm, Session)) -> Monitor {
    goes_on(&mut session);
    let cached = session.check(&format!("disk:cached:vda:1:0:{READ}"));
    assert_eq!(cached["wrong"], 0, "{cached}");
    let mte = session.check("mte");
    assert_eq!(mte["victims"], serde_json::from_str::<Value>(KILLED).unwrap(), "{mte}");
    vm.monitor.must("vm.delete");
    vm.monitor
}

/// Each page of two chains is the same, in data and in tags; answers how many pages of each layer of the first are raw.
fn same(one: &str, other: &str) -> Vec<u64> {
    let chain = |path: &str| Chain::open(Path::new(path)).unwrap().memory().unwrap();
    let (mut one, mut other) = (chain(one), chain(other));
    let layout = one.layout().clone();
    let (mut data, mut tags) = ([vec![0; 4096], vec![0; 4096]], [vec![0; 128], vec![0; 128]]);
    for page in 0..layout.pages() {
        for (index, chain) in [&mut one, &mut other].into_iter().enumerate() {
            chain.read_data(page, &mut data[index]).unwrap();
            chain.read_tags(page, &mut tags[index]).unwrap();
        }
        assert!(data[0] == data[1] && tags[0] == tags[1], "page {page}");
    }
    one.layers_mut().iter_mut().map(|layer| raw_pages(layer, layout.pages())).collect()
}

fn raw_pages(layer: &mut granule_snapshot::memory::MemoryLayer<fs::File>, pages: u64) -> u64 {
    use granule_snapshot::data::DataKind;
    (0..pages).filter(|page| matches!(layer.data_kind(*page).unwrap(), DataKind::Raw(_))).count() as u64
}

#[test]
fn a_guest_that_runs_is_saved_again_and_again_and_each_of_it_is_right() {
    let images = Images::new();
    let image = with(disk(&images.filled("image", 1, READ)), &json!({"readonly": true}));
    let (vm, mut session) = keeping(&guest().vcpus(2).set("/disks", json!([image])), 2);
    let store = Folder::new();
    let paths: Vec<String> = (0..6).map(|number| store.file(&format!("snapshot-{number}"))).collect();
    live(&vm, &mut session, &wanted(&paths[0], None, true));
    assert_eq!(vm.monitor.state(), "Running");
    let first = told(&vm);
    let number = |name: &str| first[name].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number("paused_us") > 0 && number("rounds") >= 2, "{first}");
    let page = metrics::page(vm.monitor.client());
    let counted = |name: &str| metrics::sample(&page, name).unwrap();
    assert_eq!(counted("granule_snapshots_total"), 1);
    assert!(counted("granule_snapshot_dirty_pages_total") >= number("pages_while_paused"), "{page}");
    assert!(counted("granule_snapshot_tag_bytes_total") > 0, "{page}");
    let lifecycle = vm.monitor.events().lifecycle();
    assert!(!lifecycle.iter().any(|event| event.contains("paus")), "{lifecycle:?}");
    goes_on(&mut session);

    // Of a guest that runs and of one that stands still in turn, each a diff of the one before.
    for (number, pair) in paths.windows(2).enumerate() {
        if number % 2 == 0 {
            live(&vm, &mut session, &wanted(&pair[1], Some(&pair[0]), true));
            told(&vm);
        } else {
            vm.monitor.must("vm.pause");
            must(&vm.monitor, &wanted(&pair[1], Some(&pair[0]), number == 3));
            assert_eq!(vm.monitor.state(), "Paused");
            vm.monitor.must("vm.resume");
        }
        goes_on(&mut session);
    }
    vm.monitor.must("vm.delete");

    let (last, merged) = (&paths[5], store.file("merged"));
    for words in [["snapshot", "verify", last, ""], ["snapshot", "merge", last, &merged]] {
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let (status, out, errors) = monitor::run(&words);
        assert!(status.success(), "{words:?}: {status}: {out}{errors}");
    }
    let raw = same(last, &merged);
    println!("raw pages, newest first: {raw:?}");
    assert!(raw[..5].iter().all(|diff| diff * 2 < raw[5]), "a diff is not a whole: {raw:?}");

    let monitor = is_right(restore(vm.monitor, &paths[0], true));
    let monitor = is_right(restore(monitor, last, true));
    let monitor = is_right(restore(monitor, &merged, true));
    // The whole chain, page by page as they are touched.
    is_right(on_demand::restore(monitor, last)).shutdown();
}

#[test]
fn a_live_snapshot_whose_mover_dies_leaves_nothing_and_a_guest_that_runs() {
    let (vm, mut session) = keeping(&guest(), 1);
    let store = Folder::new();
    let path = store.file("never");
    let client = vm.monitor.client();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(client, &wanted(&path, None, true)));
        // In the middle of the first round.
        let memory = store.file(".never.granule-partial/memory");
        let begun = || fs::metadata(&memory).is_ok_and(|memory| memory.blocks() > 0);
        let mover = wait::until(wait::LONG, || {
            let processes = vm.monitor.processes().into_iter();
            processes.filter(|_| begun()).find(|process| process.role() == "mover")
        });
        let pid = rustix::process::Pid::from_raw(mover.expect("there is a mover").pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        asked.join().unwrap()
    });
    assert_eq!(answer.code, 500, "{answer:?}");
    assert!(answer.body.contains("the process that moves memory died"), "{answer:?}");
    assert_eq!(vm.monitor.state(), "Running");
    assert_eq!(names(&store), [""; 0], "nothing half is left");
    goes_on(&mut session);
    must(&vm.monitor, &wanted(&path, None, true));
    goes_on(&mut session);
    vm.monitor.shutdown();
}

fn names(folder: &Folder) -> Vec<String> {
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A VM that has just been started, and stands still.
fn standing(size: u64, mte: bool) -> Vm {
    let vm = Vm::boot(&guest().mte(mte).set("/memory/size", size));
    vm.monitor.must("vm.pause");
    vm
}

#[test]
fn a_parent_that_is_none_is_refused_by_name_before_anything_changes() {
    let store = Folder::new();
    let [smaller, untagged, full, diff, new] =
        ["smaller", "untagged", "full", "diff", "new"].map(|name| store.file(name));
    for (size, mte, path) in [(128 * MIB, true, &smaller), (256 * MIB, false, &untagged)] {
        let vm = standing(size, mte);
        must(&vm.monitor, &wanted(path, None, false));
        vm.monitor.shutdown();
    }
    let vm = standing(256 * MIB, true);
    must(&vm.monitor, &wanted(&full, None, false));
    must(&vm.monitor, &wanted(&diff, Some(&full), false));
    let there = names(&store);
    let refused = |answer: Response, reason: &str| {
        assert_eq!(answer.code, 400, "{reason}: {answer:?}");
        assert!(answer.body.contains(reason), "{reason}: {answer:?}");
    };
    let snapshot = |parent: &str, reason: &str| {
        refused(vm.monitor.send("vm.snapshot", &wanted(&new, Some(parent), false)), reason);
        assert_eq!(names(&store), there);
    };
    snapshot(&store.file("none"), "none is not a snapshot");
    snapshot(&smaller, "with 134217728 bytes of memory and not 268435456 bytes of memory");
    snapshot(&untagged, "with no memory tagging and not memory tagging of level");
    let manifest = format!("{full}/manifest.json");
    let written = fs::read(&manifest).unwrap();
    let mut cyclic = Snapshot::open(Path::new(&full)).unwrap().manifest().clone();
    let child = Snapshot::open(Path::new(&diff)).unwrap().manifest().id;
    cyclic.parent = Some(Parent { id: child, path: diff.clone() });
    fs::write(&manifest, cyclic.encode()).unwrap();
    snapshot(&diff, "a diff of itself");
    fs::remove_file(&manifest).unwrap();
    snapshot(&diff, "full, which cannot be opened");
    let relative = json!({"destination_url": url(&new), "parent": "full"});
    refused(vm.monitor.send("vm.snapshot", &relative), "parent: ");

    vm.monitor.must("vm.delete");
    let source = json!({"source_url": url(&diff)});
    refused(vm.monitor.send("vm.restore", &source), "full, which cannot be opened");
    fs::write(&manifest, written).unwrap();
    assert_eq!(vm.monitor.send("vm.restore", &source).code, 204, "{}", vm.monitor.errors());
    assert_eq!(vm.monitor.state(), "Paused");
    vm.monitor.shutdown();
}
