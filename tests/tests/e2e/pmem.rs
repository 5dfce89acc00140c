//! Persistent memory: an image is the guest's memory, with tags and without, for reading and for writing.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use granule_tests::vm::{Guest, MIB};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::guest;
use crate::serial::talk;

/// Bytes of the one file in an image.
pub const DATA: u64 = 8 * MIB;
pub const IMAGE: u64 = 32 * MIB;
const EINVAL: i32 = 22;

/// Images in a folder of their own.
pub struct Images(Folder);

impl Images {
    pub fn new() -> Self {
        Self(Folder::new())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn empty(&self, name: &str, length: u64) -> String {
        File::create(self.path(name)).unwrap().set_len(length).unwrap();
        self.0.file(name)
    }

    /// An image with a file system, which a guest without tags has made on it.
    pub fn formatted(&self, name: &str, seed: u64) -> String {
        let image = self.empty(name, IMAGE);
        let (vm, mut session) = talk(&with(json!({"file": image}), false));
        assert_dax(&session.check(&format!("pmem:format:{seed}:{DATA}")));
        vm.monitor.shutdown();
        image
    }

    /// What the image holds.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

fn with(pmem: Value, mte: bool) -> Guest {
    guest().set("/pmem", vec![pmem]).mte(mte)
}

fn assert_dax(seen: &Value) {
    assert!(seen["options"].as_str().is_some_and(|options| options.contains("dax=always")), "{seen}");
}

/// The file has what `seed` names, as the guest sees it through its mapping.
fn assert_reads(session: &mut Session, seed: u64) {
    let seen = session.check(&format!("pmem:read:{seed}:{DATA}"));
    assert_dax(&seen);
    assert_eq!(seen["wrong"], 0, "{seen}");
}

/// KiB that a process has of files in the cache, shared pages counted in part.
fn cache_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut kib, mut in_cache) = (0, false);
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            in_cache = line.contains("/dev/shm/granule-0/");
        } else if in_cache && first == "Pss:" {
            kib += line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    kib
}

fn cached() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/shm/granule-0").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_writable_image_is_the_guests_memory_with_tags_and_without() {
    let images = Images::new();
    for mte in [false, true] {
        let name = if mte { "tagged" } else { "plain" };
        let image = images.empty(name, IMAGE);
        let (vm, mut session) = talk(&with(json!({"file": image}), mte));
        assert_eq!(session.check("pmem:size")["sectors"], IMAGE / 512);
        assert_dax(&session.check(&format!("pmem:format:3:{DATA}")));
        assert_reads(&mut session, 3);
        let tree = vm.monitor.info();
        assert_eq!(tree["config"]["pmem"][0]["id"], "_pmem0");
        vm.monitor.shutdown();
        // Another guest finds it in the image.
        let (vm, mut session) = talk(&with(json!({"file": image, "readonly": true}), !mte));
        assert_reads(&mut session, 3);
        vm.monitor.shutdown();
    }
}

#[test]
fn every_flushed_byte_is_in_the_image_when_everything_is_killed() {
    let images = Images::new();
    for mte in [false, true] {
        let name = if mte { "tagged" } else { "plain" };
        let image = images.formatted(name, 1);
        let (vm, mut session) = talk(&with(json!({"file": image}), mte));
        assert_eq!(session.check(&format!("pmem:write:9:{DATA}"))["flushed"], DATA);
        for process in vm.monitor.processes() {
            process.kill();
        }
        vm.monitor.wait();
        let (vm, mut session) = talk(&with(json!({"file": image}), mte));
        assert_reads(&mut session, 9);
        vm.monitor.shutdown();
    }
}

#[test]
fn a_store_to_a_read_only_image_is_an_abort_and_the_guest_lives_on() {
    let images = Images::new();
    let image = images.formatted("image", 5);
    let before = images.bytes("image");
    for mte in [false, true] {
        let (vm, mut session) = talk(&with(json!({"file": image, "readonly": true}), mte));
        let seen = session.check("pmem:store");
        assert_eq!(seen["changed"], false, "{seen}");
        assert_ne!(seen["code"], 0, "the store was not refused: {seen}");
        assert_eq!(vm.monitor.state(), "Running");
        assert_reads(&mut session, 5);
        vm.monitor.shutdown();
    }
    assert!(images.bytes("image") == before, "the image has changed");
}

#[test]
fn discarded_writes_are_the_guests_own() {
    let images = Images::new();
    let image = images.formatted("image", 5);
    let before = images.bytes("image");
    for mte in [false, true] {
        let (vm, mut session) = talk(&with(json!({"file": image, "discard_writes": true}), mte));
        assert_eq!(session.check(&format!("pmem:write:6:{DATA}"))["flushed"], DATA);
        vm.monitor.shutdown();
    }
    assert!(images.bytes("image") == before, "the image has changed");
}

#[test]
fn pages_of_an_image_are_buffers_of_a_disk() {
    let images = Images::new();
    for mte in [false, true] {
        let image = images.formatted("image", 1);
        let disk = images.empty("disk", DATA);
        let guest =
            with(json!({"file": image}), mte).set("/disks", vec![json!({"path": disk, "image_type": "Raw"})]);
        let (vm, mut session) = talk(&guest);
        let seen = session.check(&format!("pmem:direct:7:{DATA}"));
        assert_dax(&seen);
        assert_eq!(seen["wrong"], 0, "{seen}");
        vm.monitor.shutdown();
        let (vm, mut session) = talk(&with(json!({"file": image, "readonly": true}), mte));
        assert_reads(&mut session, 7);
        vm.monitor.shutdown();
    }
}

#[test]
fn guests_with_tags_share_one_image_in_memory() {
    let images = Images::new();
    let image = images.formatted("image", 2);
    // More than the file system knows of, so that two per cent of it are more than noise.
    let large = File::options().write(true).open(&image).unwrap();
    large.set_len(64 * MIB).unwrap();
    let noise: Vec<u8> = (0..32 * MIB).map(|at| ((at * 2_654_435_761) >> 7) as u8 | 1).collect();
    large.write_all_at(&noise, IMAGE).unwrap();
    let guest = with(json!({"file": image, "readonly": true}), true);
    let started = || {
        let (vm, mut session) = talk(&guest);
        assert_reads(&mut session, 2);
        // All of it, through the block device.
        assert_eq!(session.check("pmem:all")["bytes"], 64 * MIB);
        (vm, session)
    };
    let (first, second) = (started(), started());
    // What all processes of both guests have of it, each page of it divided by those who have it too.
    let processes = [&first, &second].map(|(vm, _)| vm.monitor.processes()).concat();
    let share: u64 = processes.iter().map(|process| cache_kib(process.pid)).sum();
    let size = 64 * 1024;
    assert!(share >= 40 * 1024, "the guests have read the image: {share} KiB");
    assert!(share <= size + size / 50, "two guests take {share} KiB for an image of {size} KiB");
    let files = cached();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].metadata().unwrap().mode() & 0o777, 0o400);
    first.0.monitor.shutdown();
    assert_eq!(cached().len(), 1, "the second guest still has it");
    second.0.monitor.shutdown();
    assert_eq!(cached().len(), 0, "the last guest takes it along");
}

#[test]
fn a_program_can_have_no_tags_on_pages_of_an_image() {
    let images = Images::new();
    let image = images.formatted("image", 2);
    let (vm, mut session) = talk(&with(json!({"file": image}), true));
    let seen = session.check("pmem:tags");
    assert_dax(&seen);
    assert_eq!(seen["errno"], EINVAL, "Linux gives tags to anonymous memory only: {seen}");
    vm.monitor.shutdown();
}

#[test]
fn a_killed_process_is_replaced_and_no_flush_is_lost() {
    let images = Images::new();
    let image = images.formatted("image", 1);
    let (vm, mut session) = talk(&with(json!({"file": image}), true));
    vm.monitor.process("device pmem").kill();
    assert_eq!(session.check(&format!("pmem:write:4:{DATA}"))["flushed"], DATA);
    vm.monitor.shutdown();
    let (vm, mut session) = talk(&with(json!({"file": image}), false));
    assert_reads(&mut session, 4);
    vm.monitor.shutdown();
}

#[test]
fn images_that_cannot_be_had_are_refused_by_name() {
    let images = Images::new();
    let odd = images.empty("odd", 2 * MIB + 512);
    let empty = images.empty("empty", 0);
    let locked = images.empty("locked", 2 * MIB);
    let reader = File::open(&locked).unwrap();
    // As another VM that has the image, and only reads.
    rustix::fs::fcntl_lock(&reader, FlockOperation::NonBlockingLockShared).unwrap();
    let huge = images.empty("huge", 0);
    File::options().write(true).open(&huge).unwrap().set_len(1 << 42).unwrap();
    for (pmem, field, reason) in [
        (json!({"file": "/no/such/file"}), "pmem[0].file", "cannot be opened"),
        (json!({"file": "/tmp"}), "pmem[0].file", "cannot be opened"),
        (json!({"file": odd}), "pmem[0].file", "not a multiple of 2 MiB"),
        (json!({"file": empty}), "pmem[0].file", "empty"),
        (json!({"file": locked}), "pmem[0].file", "it is locked"),
        (json!({"file": odd, "size": 4 * MIB}), "pmem[0].size", "more than the file has"),
        (json!({"file": huge}), "pmem", "does not fit"),
    ] {
        let monitor = Monitor::start();
        let guest = with(pmem.clone(), false).set("/cpus/max_phys_bits", 40);
        let created = monitor.send("vm.create", &guest.body(&monitor));
        assert_eq!(created.code, 204, "{created:?}");
        let answer = monitor.put("vm.boot");
        assert_eq!(answer.code, 400, "{pmem}: {answer:?}");
        let text = answer.causes().join(": ");
        assert!(text.contains(field) && text.contains(reason), "{pmem}: {text}");
        monitor.shutdown();
    }
}

#[test]
fn an_image_that_is_cut_short_ends_a_guest_without_tags_and_its_monitor_says_so() {
    let images = Images::new();
    let image = images.formatted("image", 1);
    let (vm, mut session) = talk(&with(json!({"file": image}), false));
    assert_eq!(session.check("pmem:size")["sectors"], IMAGE / 512);
    File::options().write(true).open(&image).unwrap().set_len(MIB).unwrap();
    session.say(&format!("run pmem:read:1:{DATA}"));
    vm.monitor.wait();
    let events = vm.monitor.events().all();
    assert!(events.iter().any(|event| event.name() == "vm:failed"), "{events:?}");
}
