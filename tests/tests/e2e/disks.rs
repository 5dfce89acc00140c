//! Disks: what the guest does to them is in the image, and nothing that befalls their processes is lost on the way.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::pattern;
use granule_tests::session::Session;
use granule_tests::vm::{Guest, MIB, Vm};
use granule_tests::wait;
use serde_json::{Value, json};

use crate::guest;
use crate::serial::{join, talk};
use crate::snapshot::{restore, snapshot};

/// Images in a folder of their own.
pub struct Images(Folder);

impl Images {
    pub fn new() -> Self {
        Self(Folder::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An image of so many bytes of the content that `seed` names.
    pub fn filled(&self, name: &str, seed: u64, length: u64) -> String {
        let file = File::create(self.path(name)).unwrap();
        let mut chunk = vec![0; MIB as usize];
        for at in (0..length).step_by(MIB as usize) {
            let count = (length - at).min(MIB) as usize;
            pattern::fill(&mut chunk[..count], seed, at);
            file.write_all_at(&chunk[..count], at).unwrap();
        }
        self.0.file(name)
    }

    /// An image of zeros.
    pub fn empty(&self, name: &str, length: u64) -> String {
        File::create(self.path(name)).unwrap().set_len(length).unwrap();
        self.0.file(name)
    }

    /// How many words of a part of an image are not those of `seed`.
    pub fn wrong(&self, name: &str, seed: u64, offset: u64, length: u64) -> usize {
        let mut bytes = vec![0; length as usize];
        File::open(self.path(name)).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        pattern::wrong(&bytes, seed, offset)
    }
}

pub fn disk(path: &str) -> Value {
    json!({"path": path, "image_type": "Raw"})
}

pub fn with(mut disk: Value, more: &Value) -> Value {
    disk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    disk
}

fn guest_with(disks: Vec<Value>) -> Guest {
    guest().set("/disks", disks)
}

/// No word is wrong.
fn assert_right(seen: &Value) {
    assert_eq!(seen["wrong"], 0, "{seen}");
}

#[test]
fn what_the_guest_writes_is_in_the_image_and_the_other_way_round() {
    let images = Images::new();
    let image = images.filled("image", 1, 16 * MIB);
    let (vm, mut session) = talk(&guest_with(vec![disk(&image)]));
    assert_right(&session.check(&format!("disk:read:vda:1:0:{}", 16 * MIB)));
    let written = session.check(&format!("disk:write:vda:2:{}:{}", 4 * MIB, 3 * MIB));
    assert_eq!(written["written"], 3 * MIB);
    // sync_all is a flush, which the guest has waited for.
    assert_eq!(images.wrong("image", 2, 4 * MIB, 3 * MIB), 0);
    assert_eq!(images.wrong("image", 1, 0, 4 * MIB), 0);
    assert_eq!(images.wrong("image", 1, 7 * MIB, 9 * MIB), 0);
    assert_right(&session.check(&format!("disk:read:vda:2:{}:{}", 4 * MIB, 3 * MIB)));
    vm.monitor.shutdown();
}

#[test]
fn disks_come_in_the_order_in_which_they_are_given_each_with_its_properties() {
    let images = Images::new();
    let [a, b, c] = [("a", 2), ("b", 3), ("c", 4)].map(|(name, size)| images.empty(name, size * MIB));
    let disks = vec![
        with(disk(&a), &json!({"serial": "first", "num_queues": 4, "sparse": false})),
        with(disk(&b), &json!({"readonly": true, "direct": true})),
        with(disk(&c), &json!({"queue_size": 1024, "pci_segment": 1, "id": "third"})),
    ];
    let guest = guest_with(disks).vcpus(4).set("/platform", json!({"num_pci_segments": 2}));
    let (vm, mut session) = talk(&guest);
    let list = session.check("disk:list");
    let of = |key: &str| list.as_array().unwrap().iter().map(|disk| disk[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["vda", "vdb", "vdc"]);
    assert_eq!(of("sectors"), [2 * 2048, 3 * 2048, 4 * 2048]);
    assert_eq!(of("readonly"), [0, 1, 0]);
    assert_eq!(of("queues"), [4, 1, 1]);
    assert_eq!(of("cache"), ["write back", "write back", "write back"]);
    assert_eq!(list[0]["serial"], "first");
    assert_eq!(list[0]["discard"], 0);
    assert_ne!(list[2]["discard"], 0);
    let inode = File::open(images.path("b")).unwrap().metadata().unwrap();
    let serial = format!("{}{}{}", inode.dev(), inode.rdev(), inode.ino());
    assert_eq!(list[1]["serial"], serial[..serial.len().min(20)]);
    let config = &vm.monitor.info()["config"]["disks"];
    assert_eq!([&config[0]["id"], &config[1]["id"], &config[2]["id"]], ["_disk0", "_disk1", "third"]);
    let roles: Vec<_> = vm.monitor.processes().iter().map(|process| process.role()).collect();
    assert_eq!(roles.iter().filter(|role| *role == "device blk").count(), 3, "{roles:?}");
    vm.monitor.shutdown();
}

#[test]
fn a_read_only_image_cannot_be_written_and_a_direct_one_is_right() {
    let images = Images::new();
    let readonly = images.filled("readonly", 3, 4 * MIB);
    let direct = images.filled("direct", 4, 4 * MIB);
    let disks = vec![
        with(disk(&readonly), &json!({"readonly": true})),
        with(disk(&direct), &json!({"direct": true})),
    ];
    let (vm, mut session) = talk(&guest_with(disks));
    let refused = session.check("disk:write:vda:9:0:4096");
    assert_eq!(refused["written"], Value::Null, "{refused}");
    assert_eq!(images.wrong("readonly", 3, 0, 4 * MIB), 0);
    assert_right(&session.check(&format!("disk:read:vdb:4:0:{}", 4 * MIB)));
    assert_eq!(session.check(&format!("disk:write:vdb:5:{MIB}:{MIB}"))["written"], MIB);
    assert_eq!(images.wrong("direct", 5, MIB, MIB), 0);
    assert_eq!(images.wrong("direct", 4, 2 * MIB, 2 * MIB), 0);
    vm.monitor.shutdown();
}

#[test]
fn discarded_blocks_are_given_back_and_zeroed_ones_are_zero() {
    let images = Images::new();
    let image = images.filled("image", 6, 8 * MIB);
    let before = std::fs::metadata(&image).unwrap().blocks();
    let (vm, mut session) = talk(&guest_with(vec![disk(&image)]));
    assert_eq!(session.check(&format!("disk:discard:vda:{MIB}:{}", 2 * MIB))["done"], 2 * MIB);
    assert_eq!(session.check(&format!("disk:zero:vda:{}:{MIB}", 5 * MIB))["done"], MIB);
    let after = std::fs::metadata(&image).unwrap().blocks();
    assert!(before - after >= 2 * MIB / 512, "{before} blocks, then {after}");
    for (offset, length) in [(MIB, 2 * MIB), (5 * MIB, MIB)] {
        let seen = session.check(&format!("disk:read:vda:6:{offset}:{length}"));
        assert_eq!(seen["zeros"], length / 8, "{seen}");
    }
    for (offset, length) in [(0, MIB), (3 * MIB, 2 * MIB), (6 * MIB, 2 * MIB)] {
        assert_right(&session.check(&format!("disk:read:vda:6:{offset}:{length}")));
    }
    vm.monitor.shutdown();
}

#[test]
fn an_image_of_unknown_type_is_raw_but_for_its_first_sector() {
    let images = Images::new();
    let image = images.filled("image", 7, 2 * MIB);
    let (vm, mut session) = talk(&guest_with(vec![json!({"path": image, "readonly": false})]));
    assert_right(&session.check(&format!("disk:read:vda:7:0:{}", 2 * MIB)));
    let refused = session.check("disk:write:vda:8:0:4096");
    assert_eq!(refused["written"], Value::Null, "{refused}");
    assert_eq!(session.check("disk:write:vda:8:4096:4096")["written"], 4096);
    assert_eq!(images.wrong("image", 7, 0, 4096), 0);
    assert_eq!(images.wrong("image", 8, 4096, 4096), 0);
    vm.monitor.shutdown();
}

#[test]
fn a_live_disk_grows() {
    let images = Images::new();
    let image = images.empty("image", 2 * MIB);
    let readonly = images.empty("readonly", MIB);
    let disks = vec![disk(&image), with(disk(&readonly), &json!({"readonly": true}))];
    let (vm, mut session) = talk(&guest_with(disks));
    let resize = |id: &str, size: u64| {
        vm.monitor.send("vm.resize-disk", &json!({"id": id, "desired_size": size})).code
    };
    assert_eq!(resize("_disk0", 6 * MIB), 204);
    let grown =
        wait::until(wait::LONG, || (session.check("disk:size:vda")["sectors"] == 6 * 2048).then_some(()));
    assert!(grown.is_some(), "the guest does not see the new size");
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 6 * MIB);
    assert_eq!(session.check(&format!("disk:write:vda:1:{}:{MIB}", 5 * MIB))["written"], MIB);
    assert_eq!(images.wrong("image", 1, 5 * MIB, MIB), 0);
    assert_eq!(resize("_disk0", MIB), 400, "it would cut off what the guest has written");
    assert_eq!(resize("_disk0", 6 * MIB + 1), 400);
    assert_eq!(resize("_disk1", 6 * MIB), 400, "read only");
    assert_eq!(resize("__rng", 6 * MIB), 400);
    assert_eq!(resize("nobody", 6 * MIB), 404);
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 6 * MIB);
    vm.monitor.shutdown();
}

#[test]
fn a_limited_disk_is_slow_and_right() {
    let images = Images::new();
    let image = images.filled("image", 11, 4 * MIB);
    let limit = json!({"rate_limiter_config": {"bandwidth": {"size": MIB, "refill_time": 1000}}});
    let (vm, mut session) = talk(&guest_with(vec![with(disk(&image), &limit)]));
    let started = Instant::now();
    assert_right(&session.check(&format!("disk:read:vda:11:0:{}", 4 * MIB)));
    // One MiB at once, the other three at one per second.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(2500), "{took:?}");
    vm.monitor.shutdown();
}

#[test]
fn disks_of_a_group_move_together_no_more_than_one_may_whatever_becomes_of_the_guest() {
    let images = Images::new();
    let disks = [("a", 15), ("b", 16)].map(|(name, seed)| {
        with(disk(&images.filled(name, seed, 4 * MIB)), &json!({"rate_limit_group": "slow"}))
    });
    let limit = json!({"bandwidth": {"size": 4 * MIB, "refill_time": 4000}});
    let groups = json!([{"id": "slow", "rate_limiter_config": limit}]);
    let (vm, mut session) = talk(&guest_with(disks.to_vec()).set("/rate_limit_groups", groups));
    both_are_slow(&mut session, || successor(&vm, 0).kill());

    vm.monitor.must("vm.reboot");
    let mut session = join(&vm);
    session.line("GRANULE serving");
    both_are_slow(&mut session, || ());

    let store = Folder::new();
    let path = store.file("one");
    vm.monitor.must("vm.pause");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    vm.monitor.shutdown();
    let (vm, mut session) = restore(Monitor::start(), &path, true);
    both_are_slow(&mut session, || ());
    vm.monitor.shutdown();
}

/// Reads both disks of a group that moves four MiB at once, and one per second.
fn both_are_slow(session: &mut Session, between: impl FnOnce()) {
    let started = Instant::now();
    assert_right(&session.check(&format!("disk:read:vda:15:0:{}", 4 * MIB)));
    between();
    assert_right(&session.check(&format!("disk:read:vdb:16:0:{}", 4 * MIB)));
    // But for the debt of one request.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(2500), "{took:?}");
}

#[test]
fn images_that_cannot_be_used_are_refused_by_field() {
    let images = Images::new();
    let small = images.empty("small", 100);
    let locked = images.empty("locked", MIB);
    let monitor = Monitor::start();
    let refused = |disk: Value, field: &str, word: &str| {
        let body = guest_with(vec![disk]).body(&monitor);
        assert_eq!(monitor.send("vm.create", &body).code, 204);
        let answer = monitor.put("vm.boot");
        assert_eq!(answer.code, 400, "{answer:?}");
        let causes = answer.json().to_string();
        assert!(causes.contains(field) && causes.contains(word), "{causes}");
        monitor.must("vm.delete");
    };
    refused(disk("/no/such/image"), "disks[0].path", "No such file");
    refused(disk(&small), "disks[0].path", "empty");
    refused(disk("/dev/null"), "disks[0].path", "block device");
    std::fs::write(images.path("qcow2"), qcow2(MIB)).unwrap();
    refused(json!({"path": images.0.file("qcow2")}), "disks[0].image_type", "qcow2");
    let mut overlay = qcow2(MIB);
    overlay[15] = 104;
    std::fs::write(images.path("overlay"), overlay).unwrap();
    let overlay = json!({"path": images.0.file("overlay"), "image_type": "Qcow2"});
    refused(overlay, "disks[0].path", "another file");

    let other = Vm::boot(&guest_with(vec![disk(&locked)]));
    refused(disk(&locked), "disks[0].path", "locked");
    refused(with(disk(&locked), &json!({"readonly": true})), "disks[0].path", "locked");
    // The lock is that of the disk's process too: it outlives control's interest, and ends with the disk.
    other.monitor.must("vm.shutdown");
    let freed = OpenOptions::new().read(true).write(true).open(&locked).unwrap();
    drop(freed);
    let body = guest_with(vec![disk(&locked)]).body(&monitor);
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    monitor.must("vm.boot");
    other.monitor.shutdown();
    monitor.shutdown();
}

#[test]
fn an_image_that_becomes_shorter_is_an_error_to_the_guest_and_no_more() {
    let images = Images::new();
    let image = images.filled("image", 12, 4 * MIB);
    let (vm, mut session) = talk(&guest_with(vec![disk(&image)]));
    OpenOptions::new().write(true).open(&image).unwrap().set_len(MIB).unwrap();
    assert_right(&session.check(&format!("disk:read:vda:12:0:{}", MIB / 2)));
    let beyond = session.check(&format!("disk:read:vda:12:{}:{MIB}", 2 * MIB));
    assert_eq!(beyond["errno"], 5, "{beyond}");
    let written = session.check(&format!("disk:write:vda:12:{}:4096", 2 * MIB));
    assert_eq!(written["errno"], 5, "{written}");
    assert_eq!(std::fs::metadata(&image).unwrap().len(), MIB);
    assert_eq!(vm.monitor.state(), "Running");
    vm.monitor.shutdown();
}

#[test]
fn tags_stay_while_a_disk_writes_into_tagged_memory() {
    let images = Images::new();
    let image = images.filled("image", 13, 8 * MIB);
    let direct = images.filled("direct", 14, 8 * MIB);
    let disks = vec![disk(&image), with(disk(&direct), &json!({"direct": true}))];
    let (vm, mut session) = talk(&guest_with(disks));
    for (name, seed) in [("vda", 13), ("vdb", 14)] {
        let seen = session.check(&format!("disk:tagged:{name}:{seed}:{}", 4 * MIB));
        assert_eq!(seen, json!({"granules": 4 * MIB / 16, "wrong_tags": 0, "wrong_data": 0}));
    }
    vm.monitor.shutdown();
}

/// An empty qcow2 image of so many bytes, version 3, in clusters of 64 KiB.
fn qcow2(bytes: u64) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| image[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    // version, cluster bits, size; first table: entries, place; reference counts: place, clusters; their order, length.
    let numbers = [(4, 3), (20, 16), (36, 1), (56, 1), (96, 4), (100, 104)];
    numbers.iter().for_each(|(at, value): &(usize, u32)| put(*at, &value.to_be_bytes()));
    let places = [(24, bytes), (40, 3 * CLUSTER as u64), (48, CLUSTER as u64), (CLUSTER, 2 * CLUSTER as u64)];
    places.iter().for_each(|(at, value)| put(*at, &value.to_be_bytes()));
    (0..4).for_each(|cluster| put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes()));
    image
}

#[test]
fn a_qcow2_image_is_a_disk_that_grows_as_it_is_written_and_survives_its_process() {
    let images = Images::new();
    std::fs::write(images.path("image"), qcow2(16 * MIB)).unwrap();
    let image = json!({"path": images.0.file("image"), "image_type": "Qcow2"});
    let (vm, mut session) = talk(&guest_with(vec![image]));
    assert_eq!(session.check("disk:list")[0]["sectors"], 16 * 2048);
    let before = std::fs::metadata(images.path("image")).unwrap().len();
    assert_eq!(session.check(&format!("disk:write:vda:21:{}:{MIB}", 4 * MIB))["written"], MIB);
    assert!(std::fs::metadata(images.path("image")).unwrap().len() >= before + MIB);
    let first = successor(&vm, 0);
    first.kill();
    successor(&vm, first.pid);
    assert_right(&session.check(&format!("disk:read:vda:21:{}:{MIB}", 4 * MIB)));
    let untouched = session.check(&format!("disk:read:vda:21:{}:{MIB}", 8 * MIB));
    assert_eq!(untouched["zeros"], MIB / 8, "{untouched}");
    churn_and_kill(&vm, &mut session, 300, 2, 3);
    vm.monitor.shutdown();
}

/// Waits for the disk's process, which is another than `before`.
fn successor(vm: &Vm, before: i32) -> granule_tests::processes::Process {
    let found = wait::until(wait::LONG, || {
        vm.monitor.processes().into_iter().find(|p| p.role() == "device blk" && p.pid != before)
    });
    found.unwrap_or_else(|| panic!("no disk process after {before}: {}", vm.monitor.doing()))
}

/// Kills the disk's process again and again while the guest works, until it has ended `kills` of them.
fn churn_and_kill(vm: &Vm, session: &mut Session, operations: u64, threads: u64, kills: usize) {
    let mut before = 0;
    let mut killed = 0;
    let mut rounds = 0;
    let mut random = 0x9e37_79b9u32;
    while killed < kills {
        rounds += 1;
        let seen = session.text().matches("GRANULE ok disk:churn").count();
        session.say(&format!("run disk:churn:vda:{rounds}:{operations}:{threads}"));
        while killed < kills && session.text().matches("GRANULE ok disk:churn").count() == seen {
            let process = successor(vm, before);
            // At any moment of its work, or before it.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::park_timeout(Duration::from_millis(u64::from(random >> 24)));
            process.kill();
            before = process.pid;
            killed += 1;
            assert_eq!(vm.monitor.get("vmm.ping").code, 200);
        }
        let line = session.line("GRANULE ok disk:churn:vda:");
        let (_, tally) = line.split_once(' ').unwrap();
        let tally: Value = serde_json::from_str(tally).unwrap();
        assert_right(&tally);
    }
    eprintln!("{killed} kills in {rounds} rounds of {operations} operations on {threads} threads");
}

#[test]
fn killing_the_disks_process_twenty_times_loses_nothing() {
    let images = Images::new();
    let image = images.empty("image", 16 * MIB);
    let guest = guest_with(vec![with(disk(&image), &json!({"num_queues": 2}))]).vcpus(2);
    let (vm, mut session) = talk(&guest);
    let threads = 4;
    churn_and_kill(&vm, &mut session, 1500, threads, 22);
    let rounds = session.text().matches("GRANULE ok disk:churn").count() as u64;
    // The guest has left the first generation of its last round in every block.
    assert_eq!(images.wrong("image", rounds, 0, threads * 64 * 4096), 0);
    let died = vm.monitor.events().all().iter().filter(|e| e.name() == "virtio-device:died").count();
    assert_eq!(died, 22);
    assert_eq!(vm.monitor.state(), "Running");
    vm.monitor.shutdown();
}
