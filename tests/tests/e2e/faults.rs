//! Device processes that die at any moment of their work, of every kind, and that are stopped: nothing is lost, doubled or
//! left behind, and the API answers.
//!
//! `GRANULE_KILLS` is how often each process is killed; few where it is not set. Of disks see `disks`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granule_tests::folder::Folder;
use granule_tests::pattern;
use granule_tests::processes::Process;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::{memory, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::balloon::wait_actual;
use crate::disks::{Images, disk};
use crate::hostile::{serves_entropy, stands};
use crate::memory::{plugged_pages_hold_tags, resize};
use crate::serial::{join, talk};
use crate::{guest, net, vsock};

/// Bytes of memory of the boot, and at most plugged beyond.
const RAM: u64 = 256 * MIB;
const CHUNK: usize = 1 << 16;
/// What one kill may cost of the time of the whole suite.
const FEW: usize = 2;
/// Bytes that go to a console at once.
const STREAM: u64 = 1 << 16;
/// KiB that a device process may take.
const DEVICE_KIB: u64 = 1536;

fn kills() -> usize {
    std::env::var("GRANULE_KILLS").map_or(FEW, |text| text.parse().expect("GRANULE_KILLS is a number"))
}

/// A guest with every kind of device of ours.
struct Rich {
    vm: Vm,
    session: Session,
    images: Images,
    sockets: String,
    console: String,
    network: u8,
    random: u32,
    _place: Folder,
}

impl Rich {
    fn start(tap: &str, network: u8) -> Self {
        let (images, place) = (Images::new(), Folder::new());
        let [disk_image, pmem] = [images.filled("disk", 1, 4 * MIB), images.empty("pmem", 64 * MIB)];
        let (sockets, console) = (place.file("v.sock"), place.file("hvc0.sock"));
        let interface = json!({"tap": tap, "ip": format!("10.9.{network}.1"), "mask": "255.255.255.0"});
        let guest = guest()
            .vcpus(2)
            .set("/memory", json!({"size": RAM, "hotplug_method": "VirtioMem", "hotplug_size": RAM}))
            // What is online as movable can always be unplugged.
            .word("memhp_default_state=online_movable")
            .set("/disks", vec![disk(&disk_image)])
            .set("/net", vec![interface])
            .set("/pmem", vec![json!({"file": pmem})])
            .set("/vsock", json!({"cid": 3, "socket": sockets}))
            .set("/console", json!({"mode": "Socket", "socket": console}))
            .set("/balloon", json!({"size": 0}))
            .set("/watchdog", true);
        let (vm, session) = talk(&guest);
        let mut rich =
            Self { vm, session, images, sockets, console, network, random: 0x9e37_79b9, _place: place };
        rich.serve();
        rich
    }

    /// Has the guest bring up what listens in it, and the drivers that it does not begin with.
    fn serve(&mut self) {
        self.session.say(&format!("start tcp {}", net::address(self.network)));
        self.session.line("GRANULE started tcp");
        vsock::start_service(&mut self.session);
        self.session.check("balloon");
        self.session.check("memory");
    }

    /// Ends a process at any moment of the next fifth of a second, and waits until its successor serves.
    fn kill(&mut self, kind: &str) {
        let role = format!("device {kind}");
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::park_timeout(Duration::from_millis(u64::from(self.random >> 24)));
        let before = self.restarts();
        self.vm.monitor.process(&role).kill();
        assert_eq!(self.vm.monitor.get("vmm.ping").code, 200);
        let served = wait::until(wait::LONG, || (self.restarts() > before).then_some(()));
        assert!(served.is_some(), "no successor of {role}: {}", self.vm.monitor.doing());
    }

    /// How often a process was replaced until now.
    fn restarts(&self) -> usize {
        let events = self.vm.monitor.events().all();
        events.iter().filter(|e| e.name() == "virtio-device:restarted").count()
    }

    /// Processes, and how many descriptors and sockets each of those has that do not die.
    fn holdings(&self) -> Vec<(String, usize, usize)> {
        let count = |process: &Process| {
            let descriptors = process.descriptors();
            let sockets = descriptors.values().filter(|file| file.starts_with("socket:")).count();
            (process.role(), descriptors.len(), sockets)
        };
        let mut all: Vec<_> = self.vm.monitor.processes().iter().map(count).collect();
        all.sort();
        all
    }

    /// Each device does its work.
    fn works(&mut self, seed: u64) {
        serves_entropy(&mut self.session);
        assert_eq!(self.session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
        net::ping(self.network);
        net::echoes(self.network, seed, MIB);
        vsock::echoes(&self.sockets, seed, MIB);
        self.flushes(seed);
        assert_eq!(self.session.check("stream:/dev/hvc0")["bytes"], STREAM);
    }

    /// What each process holds besides the guest's memory.
    fn is_small(&self) {
        for process in self.devices() {
            let kib = memory::beyond_guest(process.pid as u32).unwrap();
            println!("{}: {kib} KiB", process.role());
            assert!(kib <= DEVICE_KIB, "{} holds {kib} KiB", process.role());
        }
    }

    fn devices(&self) -> Vec<Process> {
        let all = self.vm.monitor.processes();
        all.into_iter().filter(|process| process.role().starts_with("device")).collect()
    }

    fn flushes(&mut self, seed: u64) {
        assert_eq!(self.session.check(&format!("pmem:raw:{seed}:{MIB}"))["flushed"], MIB);
        assert_eq!(self.images.wrong("pmem", seed, 0, MIB), 0);
    }
}

#[test]
fn whatever_process_is_killed_at_whatever_moment_nothing_is_lost_doubled_or_left_behind() {
    let mut rich = Rich::start("granule-h", 8);
    rich.works(1);
    rich.is_small();
    let before = rich.holdings();
    for (kind, kill) in KINDS {
        let began = Instant::now();
        kill(&mut rich);
        println!("{kind}: killed {} times in {:?}", kills(), began.elapsed());
    }
    rich.works(2);
    let same = wait::until(wait::LONG, || (rich.holdings() == before).then_some(()));
    assert!(same.is_some(), "{before:?} before, {:?} now", rich.holdings());
    watchdog(&mut rich);
    // Whoever had stepped out of its jail would have died of that too.
    assert!(!rich.vm.monitor.errors().contains("SIGSYS"), "{}", rich.vm.monitor.errors());
    assert_eq!(rich.restarts(), (KINDS.len() + 1) * kills());
    rich.vm.monitor.shutdown();
}

/// Kills the process of one kind again and again, at its work.
type Kill = fn(&mut Rich);

/// What is done with each kind; the watchdog comes last, and takes the guest along.
const KINDS: [(&str, Kill); 7] = [
    ("rng", entropy),
    ("net", network),
    ("vsock", sockets),
    ("pmem", persistent_memory),
    ("console", console),
    ("balloon", balloon),
    ("mem", plugged_memory),
];

fn entropy(rich: &mut Rich) {
    for _ in 0..kills() {
        rich.session.say("run rng");
        rich.kill("rng");
        let rng = rich.session.result("rng").unwrap();
        assert_eq!((&rng["bytes"], &rng["repeats"]), (&8192.into(), &false.into()), "{rng}");
    }
}

/// Packets may be lost; of a stream no byte is.
fn network(rich: &mut Rich) {
    let over = Arc::new(AtomicBool::new(false));
    let (seen, network) = (Arc::clone(&over), rich.network);
    let busy = std::thread::spawn(move || {
        let mut seed = 0;
        while !seen.load(Ordering::Relaxed) {
            net::echoes(network, seed, MIB);
            seed += 1;
        }
    });
    for _ in 0..kills() {
        rich.kill("net");
    }
    over.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}

/// Connections are reset; until then every byte is right.
///
/// The guest hears of it a moment after the successor is there, and resets what was made until then, too.
fn sockets(rich: &mut Rich) {
    for seed in 0..kills() as u64 {
        let stream = wait::until(wait::LONG, || echoing(&rich.sockets)).expect("the guest answers");
        let busy = std::thread::spawn(move || until_reset(&stream, seed));
        rich.kill("vsock");
        busy.join().unwrap();
    }
    assert!(wait::until(wait::LONG, || echoing(&rich.sockets)).is_some(), "the guest answers again");
}

/// A connection that has sent back a word, if it could be had.
fn echoing(path: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(wait::SHORT)).ok()?;
    stream.write_all(b"CONNECT 7\n").ok()?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).ok()?;
    }
    stream.write_all(b"echo\nword").ok()?;
    let mut word = [0; 4];
    stream.read_exact(&mut word).ok()?;
    (&word == b"word").then_some(stream)
}

fn until_reset(mut stream: &UnixStream, seed: u64) {
    let sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        for at in (0..).step_by(CHUNK) {
            pattern::fill(&mut chunk, seed, at);
            if (&sender).write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let mut chunk = vec![0; CHUNK];
    for at in (0..).step_by(CHUNK) {
        if stream.read_exact(&mut chunk).is_err() {
            break;
        }
        assert_eq!(pattern::wrong(&chunk, seed, at), 0, "at byte {at}");
    }
    // The sender may wait for room.
    stream.shutdown(Shutdown::Both).unwrap_or_default();
    sending.join().unwrap();
}

/// What was flushed is in the image, whoever answered.
fn persistent_memory(rich: &mut Rich) {
    for seed in 0..kills() as u64 {
        let check = format!("pmem:raw:{seed}:{}", 8 * MIB);
        rich.session.say(&format!("run {check}"));
        rich.kill("pmem");
        assert_eq!(rich.session.result(&check).unwrap()["flushed"], 8 * MIB);
        assert_eq!(rich.images.wrong("pmem", seed, 0, 8 * MIB), 0);
    }
}

fn console(rich: &mut Rich) {
    for _ in 0..kills() {
        rich.session.say("run stream:/dev/hvc0");
        // One that does not read, and may be there before the process dies or after.
        let client = UnixStream::connect(&rich.console).unwrap();
        rich.kill("console");
        assert_eq!(rich.session.result("stream:/dev/hvc0").unwrap()["bytes"], STREAM);
        drop(client);
        // Whoever comes next is served.
        let mut client = UnixStream::connect(&rich.console).unwrap();
        client.set_read_timeout(Some(wait::LONG)).unwrap();
        rich.session.say("run stream:/dev/hvc0");
        client.read_exact(&mut [0; 1024]).unwrap();
        drop(client);
        rich.session.result("stream:/dev/hvc0").unwrap();
    }
}

/// Its size is what was asked for, whoever hears of it.
fn balloon(rich: &mut Rich) {
    for round in 0..kills() as u64 {
        for size in [(32 + round) * MIB, 0] {
            let resized = rich.vm.monitor.send("vm.resize", &json!({"desired_balloon": size}));
            assert_eq!(resized.code, 204, "{resized:?}");
            if size > 0 {
                rich.kill("balloon");
            }
            wait_actual(&rich.vm, RAM - size);
        }
    }
}

/// What is plugged and unplugged is what was asked for, whoever hears of it, and holds tags.
fn plugged_memory(rich: &mut Rich) {
    for round in 0..kills() {
        for (size, killed) in [(2 * RAM, round % 2 == 0), (RAM, round % 2 != 0)] {
            resize(&rich.vm, size);
            if killed {
                rich.kill("mem");
            }
            wait_actual(&rich.vm, size);
            if size > RAM {
                plugged_pages_hold_tags(&mut rich.session);
            }
        }
    }
}

/// A guest that has pinged and falls silent is reset, whoever counts the time.
fn watchdog(rich: &mut Rich) {
    assert_eq!(rich.session.check("watchdog")["answer"], 1);
    for _ in 0..kills() {
        rich.kill("watchdog");
    }
    rich.vm.monitor.events().wait_for("vm:rebooted");
    rich.session = join(&rich.vm);
    rich.session.line("GRANULE serving");
    rich.serve();
    rich.works(3);
}

#[test]
fn processes_that_are_stopped_hold_up_no_answer_and_go_on_where_they_were() {
    let mut rich = Rich::start("granule-i", 10);
    let devices = rich.devices();
    assert_eq!(devices.len(), 9, "{devices:?}");
    let signal =
        |process: &Process, signal| kill_process(Pid::from_raw(process.pid).unwrap(), signal).unwrap();
    for process in &devices {
        signal(process, Signal::STOP);
        stands(&rich.vm);
    }
    rich.vm.monitor.must("vm.pause");
    rich.vm.monitor.must("vm.resume");
    stands(&rich.vm);
    // One that is asked and does not answer is replaced; the others go on.
    let resized = rich.vm.monitor.send("vm.resize", &json!({"desired_balloon": 8 * MIB}));
    assert!(resized.code == 204 || resized.code >= 400, "{resized:?}");
    stands(&rich.vm);
    for process in &devices {
        // That one may be gone.
        let _ = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::CONT);
    }
    rich.works(4);
    assert_eq!(rich.vm.monitor.state(), "Running");
    rich.vm.monitor.shutdown();
}
