//! Every kind of device that can come while the guest runs: its driver is bound, it works, it goes and leaves nothing behind.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use granule_tests::client::Response;
use granule_tests::folder::Folder;
use granule_tests::monitor::{Monitor, is_socket};
use granule_tests::server::Server;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::{tap, tree, wait};
use serde_json::{Value, json};

use crate::disks::{Images, disk};
use crate::hotplug::{remove, wait_disks, wait_event, wait_removed};
use crate::serial::{join, talk};
use crate::{guest, net, vsock};

const TAP: &str = "granule-g";
const NETWORK: u8 = 11;
const MAC: &str = "02:00:ca:fe:00:07";
const PMEM: u64 = 32 * MIB;

/// A tap as container runtimes make them: it is there for as long as somebody has its descriptor.
fn make_tap() -> OwnedFd {
    let mut made = tap::open(TAP, 1).unwrap();
    tap::switch_on(TAP, "10.9.11.1");
    made.remove(0)
}

/// vm.add-net with descriptors, as Kata's runtimes send it.
fn add_net(monitor: &Monitor, taps: &[&OwnedFd]) -> Response {
    let body = json!({"id": "passed", "mac": MAC, "num_queues": 2, "fds": [9]}).to_string();
    let request = format!(
        "PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let descriptors: Vec<_> = taps.iter().map(|tap| tap.as_fd()).collect();
    let mut client = monitor.client();
    client.send_with(request.as_bytes(), &descriptors).unwrap();
    client.receive().unwrap()
}

/// The device is there, and how often its driver has come up until then.
fn added(vm: &Vm, answer: &Response, id: &str, times: usize) {
    assert_eq!((answer.code, &answer.json()["id"]), (200, &json!(id)), "{answer:?}; {}", vm.monitor.errors());
    wait_event(vm, "activated", id, times);
}

fn load(session: &mut Session, drivers: &str) {
    session.say(&format!("load {drivers}"));
    session.line(&format!("GRANULE loaded {drivers}"));
}

fn serves_network(session: &mut Session) {
    session.say(&format!("start tcp {}", net::address(NETWORK)));
    session.line("GRANULE started tcp");
    net::ping(NETWORK);
    net::echoes(NETWORK, 7, MIB);
}

/// What was written to the device is in the image when the flush is answered.
fn flushes(session: &mut Session, images: &Images, seed: u64) {
    assert_eq!(session.check(&format!("pmem:raw:{seed}:{}", 4 * MIB))["flushed"], 4 * MIB);
    assert_eq!(images.wrong("pmem", seed, 0, 4 * MIB), 0);
}

/// Processes and descriptors, which must be the same again when what came has gone.
fn holdings(vm: &Vm) -> Vec<(String, usize)> {
    let processes = vm.monitor.processes();
    processes.iter().map(|process| (process.role(), process.descriptors().len())).collect()
}

#[test]
fn every_kind_comes_works_and_goes_and_leaves_nothing_behind() {
    let (images, shared, place) = (Images::new(), Folder::new(), Folder::new());
    let [image, pmem] = [images.empty("disk", 8 * MIB), images.empty("pmem", PMEM)];
    std::fs::write(shared.file("hello"), "from the host").unwrap();
    let (share, sockets) = (place.file("fs.sock"), place.file("v.sock"));
    let _server = Server::virtiofsd(shared.path(), &share);
    let first = make_tap();

    let (vm, mut session) = talk(&guest());
    for drivers in ["tcp", "vsock", "pmem-modules"] {
        load(&mut session, drivers);
    }
    let null = OwnedFd::from(File::open("/dev/null").unwrap());
    let before = holdings(&vm);
    for taps in [&[][..], &[&null][..], &[&first, &first][..]] {
        let refused = add_net(&vm.monitor, taps);
        assert_eq!(refused.code, 400, "{refused:?}");
        assert!(refused.causes().iter().any(|cause| cause.contains("net[0].fds")), "{refused:?}");
    }

    // The disk's process runs before there is persistent memory, and is to take buffers there.
    assert_eq!(vm.monitor.send("vm.add-disk", &disk(&image)).code, 200);
    wait_disks(&mut session, &["vda"]);
    added(&vm, &add_net(&vm.monitor, &[&first]), "passed", 1);
    drop(first);
    for (call, body) in [
        ("vm.add-fs", json!({"tag": "hot", "socket": share, "id": "share"})),
        ("vm.add-vsock", json!({"cid": 3, "socket": sockets, "id": "sockets"})),
        ("vm.add-pmem", json!({"file": pmem, "id": "image"})),
    ] {
        added(&vm, &vm.monitor.send(call, &body), body["id"].as_str().unwrap(), 1);
    }
    let second = vm.monitor.send("vm.add-vsock", &json!({"cid": 4, "socket": place.file("other")}));
    assert_eq!(second.code, 409, "{second:?}");

    serves_network(&mut session);
    // Linux says that the device is up shortly before it can be mounted.
    let mounted = wait::until(wait::LONG, || session.attempt("fs:hot").ok());
    assert_eq!(mounted, Some(json!(tree::read(shared.path()).unwrap())));
    vsock::start_service(&mut session);
    vsock::echoes(&sockets, 3, MIB);
    flushes(&mut session, &images, 5);
    session.check(&format!("pmem:format:3:{}", 4 * MIB));
    let direct = session.check(&format!("pmem:direct:9:{}", 4 * MIB));
    assert_eq!(direct["wrong"], 0, "{direct}");
    assert_eq!(images.wrong("disk", 9, 0, 4 * MIB), 0, "the disk has taken it from pages of the image");
    session.check("pmem:leave");

    let all = ["passed", "share", "sockets", "image", "_disk0"];
    all.iter().for_each(|id| remove(&vm, id));
    all.iter().for_each(|id| wait_removed(&vm, id));
    let left = wait::until(wait::LONG, || (holdings(&vm) == before).then_some(()));
    assert!(left.is_some(), "{before:?} before, {:?} now", holdings(&vm));
    assert!(!is_socket(sockets.as_ref()), "the socket goes with its device");
    assert_eq!(net::interface(TAP, "address"), "", "the tap goes with its last descriptor");

    let again = make_tap();
    added(&vm, &add_net(&vm.monitor, &[&again]), "passed", 2);
    drop(again);
    added(&vm, &vm.monitor.send("vm.add-pmem", &json!({"file": pmem, "id": "image"})), "image", 2);
    flushes(&mut session, &images, 6);
    // What was added is there at boot after a reset, the tap too, which nobody can open again.
    vm.monitor.must("vm.reboot");
    let mut session = join(&vm);
    session.line("GRANULE serving");
    serves_network(&mut session);
    flushes(&mut session, &images, 7);
    vm.monitor.shutdown();
    assert_eq!(net::interface(TAP, "address"), "", "the tap stays behind");
}

#[test]
fn persistent_memory_without_tags_comes_and_goes_too() {
    let images = Images::new();
    let pmem = images.empty("pmem", PMEM);
    let (vm, mut session) = talk(&guest().mte(false));
    load(&mut session, "pmem-modules");
    for (round, id) in [(1, "first"), (2, "second")] {
        let body = json!({"file": pmem, "id": id});
        added(&vm, &vm.monitor.send("vm.add-pmem", &body), id, 1);
        flushes(&mut session, &images, round);
        remove(&vm, id);
        wait_removed(&vm, id);
        assert_eq!(vm.monitor.info()["config"]["pmem"], Value::Null);
    }
    let small = images.empty("small", 100);
    for (body, field) in [
        (json!({"file": small}), "pmem[0].file"),
        (json!({"file": "/no/such/file"}), "pmem[0].file"),
        (json!({"file": pmem, "size": 2 * PMEM}), "pmem[0].size"),
    ] {
        let refused = vm.monitor.send("vm.add-pmem", &body);
        assert_eq!(refused.code, 400, "{refused:?}");
        assert!(refused.causes().iter().any(|cause| cause.contains(field)), "{refused:?}");
    }
    assert_eq!(vm.monitor.processes().len(), 3, "{:?}", vm.monitor.processes());
    vm.monitor.shutdown();
}
