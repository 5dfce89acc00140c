//! Devices in snapshots: what a device has of a guest's is there afterwards, or the snapshot is refused.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use granule_tests::client::Response;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::server::Server;
use granule_tests::session::Session;
use granule_tests::tap;
use granule_tests::vm::MIB;
use serde_json::{Value, json};

use crate::disks;
use crate::external::{plant, with_share};
use crate::guest;
use crate::hotplug::{add, remove, wait_disks, wait_removed};
use crate::net::{address, echoes};
use crate::on_demand;
use crate::pmem::{DATA, IMAGE, Images};
use crate::serial::talk;
use crate::snapshot::{edit_config, move_serial, restore, restored, snapshot, url};

/// Restores and resumes, and passes taps along.
fn restore_with(monitor: &Monitor, path: &str, net_fds: &Value, taps: &[OwnedFd]) -> Response {
    let body = json!({"source_url": url(path), "resume": true, "net_fds": net_fds}).to_string();
    let head =
        format!("PUT /api/v1/vm.restore HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let taps: Vec<_> = taps.iter().map(AsFd::as_fd).collect();
    let mut client = monitor.client();
    client.send_with(format!("{head}{body}").as_bytes(), &taps).unwrap();
    client.receive().unwrap()
}

fn held(session: &mut Session, seed: u64) {
    let seen = session.check(&format!("pmem:held:{seed}:{DATA}"));
    assert_eq!(seen["wrong"], 0, "{seen}");
}

#[test]
fn what_a_guest_has_stored_in_a_copy_of_its_image_is_in_the_snapshot_and_reaches_the_image_after_it() {
    let (images, store) = (Images::new(), Folder::new());
    let image = images.empty("image", IMAGE);
    let (vm, mut session) = talk(&guest().set("/pmem", json!([{"file": image}])));
    session.check(&format!("pmem:format:3:{DATA}"));
    session.check(&format!("pmem:scribble:8:{DATA}"));
    let live =
        vm.monitor.send("vm.snapshot", &json!({"destination_url": url(&store.file("live")), "live": true}));
    assert!(live.code == 400 && live.body.contains("pause the VM first"), "{live:?}");
    vm.monitor.must("vm.pause");
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    // Whatever has become of the image, the guest's copy counts.
    fs::write(images.path("image"), vec![0xa5; IMAGE as usize]).unwrap();
    edit_config(&path, |config| config["pmem"][0]["discard_writes"] = true.into());
    let (vm, mut session) = restore(vm.monitor, &path, true);
    held(&mut session, 8);
    session.check(&format!("pmem:flush:{DATA}"));
    vm.monitor.must("vm.delete");
    assert!(images.bytes("image").iter().all(|byte| *byte == 0xa5), "discarded writes are in the image");

    edit_config(&path, |config| config["pmem"][0]["discard_writes"] = false.into());
    // While RAM comes on demand, the process that writes the image back has all of the copy.
    let (vm, mut session) = on_demand::restore(vm.monitor, &path);
    held(&mut session, 8);
    session.check(&format!("pmem:flush:{DATA}"));
    vm.monitor.must("vm.delete");
    vm.monitor.shutdown();
    let (vm, mut session) = talk(&guest().mte(false).set("/pmem", json!([{"file": image}])));
    assert_eq!(session.check(&format!("pmem:read:8:{DATA}"))["wrong"], 0);
    vm.monitor.shutdown();
}

#[test]
fn an_image_that_is_only_read_must_be_the_same_and_discarded_writes_are_in_the_snapshot() {
    let (images, store) = (Images::new(), Folder::new());
    let [own, fixed] = ["own", "fixed"].map(|name| images.empty(name, IMAGE));
    let pmem = json!([{"file": own, "discard_writes": true}, {"file": fixed, "readonly": true}]);
    let (vm, mut session) = talk(&guest().mte(false).set("/pmem", pmem));
    session.check(&format!("pmem:format:3:{DATA}"));
    session.check(&format!("pmem:scribble:6:{DATA}"));
    vm.monitor.must("vm.pause");
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    assert!(images.bytes("own").iter().all(|byte| *byte == 0), "the image has changed");

    let image = File::options().write(true).open(&fixed).unwrap();
    let then = image.metadata().unwrap().modified().unwrap();
    let refused = |monitor: &Monitor, reason: &str| {
        let answer = monitor.send("vm.restore", &json!({"source_url": url(&path)}));
        assert_eq!(answer.code, 400, "{answer:?}");
        assert!(answer.body.contains(reason), "{reason}: {answer:?}");
        assert_eq!(monitor.get("vm.info").code, 404, "{reason}");
    };
    image.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    refused(&vm.monitor, "modified last is not what it was");
    image.set_modified(then).unwrap();
    image.set_len(IMAGE + 2 * MIB).unwrap();
    image.set_modified(then).unwrap();
    refused(&vm.monitor, "its size is not what it was");
    edit_config(&path, |config| config["pmem"][1]["size"] = IMAGE.into());
    let (vm, mut session) = restore(vm.monitor, &path, true);
    held(&mut session, 6);
    vm.monitor.must("vm.delete");
    let (vm, mut session) = on_demand::restore(vm.monitor, &path);
    held(&mut session, 6);
    on_demand::complete(&vm.monitor);
    vm.monitor.shutdown();
}

#[test]
fn a_share_whose_program_saves_its_state_a_disk_that_was_added_and_a_network_go_on_elsewhere() {
    let (shared, place, store) = (Folder::new(), Folder::new(), Folder::new());
    plant(&shared);
    let images = disks::Images::new();
    let [image, other] = [1, 2].map(|seed| images.filled(&seed.to_string(), seed, 4 * MIB));
    let sockets = ["one", "two"].map(|name| place.file(name));
    let server = Server::virtiofsd(shared.path(), &sockets[0]);
    let net = json!([{"id": "net", "tap": "granule-r", "ip": "10.9.7.1", "mask": "255.255.255.0"}]);
    let (vm, mut session) = talk(&with_share(&sockets[0]).set("/net", net));
    session.say(&format!("start tcp {}", address(7)));
    session.line("GRANULE started tcp");
    assert_eq!(add(&vm, &disks::with(disks::disk(&image), &json!({"id": "first"})))["id"], "first");
    wait_disks(&mut session, &["vda"]);
    let process = session.check("fs-hold:kataShared");
    vm.monitor.must("vm.pause");
    let path = store.file("one");
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.delete");
    drop(server);

    let _server = Server::virtiofsd(shared.path(), &sockets[1]);
    edit_config(&path, |config| config["fs"][0]["socket"] = sockets[1].as_str().into());
    let taps = tap::open("granule-s", 1).unwrap();
    let net_fds = |id: &str, taps: u64| json!([{"id": id, "num_fds": taps}]);
    for (named, passed, reason) in [
        (net_fds("net", 2), 1, "2 descriptors are named, and 1 came along"),
        (net_fds("other", 1), 1, "no network interface `other`"),
        (json!([]), 1, "0 descriptors are named, and 1 came along"),
    ] {
        let refused = restore_with(&vm.monitor, &path, &named, &taps[..passed]);
        assert!(refused.code == 400 && refused.body.contains(reason), "{reason}: {refused:?}");
        assert_eq!(vm.monitor.get("vm.info").code, 404, "{reason}");
    }
    move_serial(&vm.monitor, &path);
    let answer = restore_with(&vm.monitor, &path, &net_fds("net", 1), &taps);
    assert_eq!(answer.code, 204, "{answer:?}; {}", vm.monitor.errors());
    drop(taps);
    tap::switch_on("granule-s", "10.9.7.1");
    let (vm, mut session) = restored(vm.monitor);
    echoes(7, 1, MIB);
    let large = fs::read(shared.file("a/b/large")).unwrap();
    let seen = session.check(&format!("fs-held:{process}"));
    assert_eq!(seen, json!(format!("{:016x}", granule_tests::tree::digest(&large))), "a file that was open");
    assert_eq!(fs::read(shared.file("a/b/large")).unwrap(), [&large[..], b"more"].concat());
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    // It goes as it came, and its slot takes another.
    remove(&vm, "first");
    wait_removed(&vm, "first");
    wait_disks(&mut session, &[]);
    let id = add(&vm, &disks::disk(&other))["id"].clone();
    let id = id.as_str().unwrap();
    wait_disks(&mut session, &["vda"]);
    assert_eq!(session.check(&format!("disk:read:vda:2:0:{}", 4 * MIB))["wrong"], 0);
    // One that is leaving would be missing in a restored machine.
    vm.monitor.must("vm.pause");
    remove(&vm, id);
    let leaving = vm.monitor.send("vm.snapshot", &json!({"destination_url": url(&store.file("two"))}));
    assert!(leaving.code == 405 && leaving.body.contains(id), "{leaving:?}");
    vm.monitor.shutdown();
}
