//! Devices that other programs serve: virtiofsd, and our own device processes as anybody's vhost-user back ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use granule_tests::client::Client;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::relay;
use granule_tests::server::Server;
use granule_tests::session::Session;
use granule_tests::tree;
use granule_tests::vm::{Guest, MIB};
use granule_tests::wait;
use serde_json::json;

use crate::disks::Images;
use crate::serial::talk;
use crate::snapshot::url;
use crate::{guest, net};

/// A share as Kata Containers asks for it, on the second segment.
pub fn with_share(socket: &str) -> Guest {
    let fs = json!([{"tag": "kataShared", "socket": socket, "num_queues": 1, "queue_size": 1024,
                     "pci_segment": 1}]);
    guest().set("/fs", fs).set("/platform", json!({"num_pci_segments": 2}))
}

/// Files small, large, empty and many, with names that need care.
pub fn plant(folder: &Folder) {
    let file = |name: &str| folder.file(name);
    fs::create_dir_all(file("a/b/c")).unwrap();
    fs::write(file("empty"), "").unwrap();
    fs::write(file("a/name with spaces, ümläut"), "small").unwrap();
    let large: Vec<u8> = (0..3 * MIB + 17).map(|n| ((n * n) >> 8) as u8).collect();
    fs::write(file("a/b/large"), large).unwrap();
    symlink("b/large", file("a/link")).unwrap();
    for number in 0..100 {
        fs::write(file(&format!("a/b/c/{number}")), vec![number; 100 * usize::from(number)]).unwrap();
    }
}

fn compares(session: &mut Session, folder: &Folder) {
    assert_eq!(session.check("fs:kataShared"), json!(tree::read(folder.path()).unwrap()));
}

#[test]
fn a_shared_directory_is_the_same_tree_in_the_guest() {
    let (shared, place) = (Folder::new(), Folder::new());
    plant(&shared);
    let socket = place.file("virtiofsd.sock");
    let _server = Server::virtiofsd(shared.path(), &socket);
    let (vm, mut session) = talk(&with_share(&socket));
    compares(&mut session, &shared);
    let digest = session.check("fs-write:kataShared");
    let written = fs::read(shared.file("from the guest/renamed")).unwrap();
    assert_eq!(json!(format!("{:016x}", tree::digest(&written))), digest);
    compares(&mut session, &shared);

    let info = vm.monitor.info();
    assert_eq!(info["config"]["fs"][0]["id"], "_fs0");
    let bdf = info["device_tree"]["_virtio-pci-_fs0"]["pci_bdf"].as_str().unwrap();
    assert!(bdf.starts_with("0001:00:"), "{bdf} is not on segment 1");
    vm.monitor.shutdown();
}

#[test]
fn a_reboot_keeps_the_share() {
    let (shared, place) = (Folder::new(), Folder::new());
    plant(&shared);
    let socket = place.file("virtiofsd.sock");
    let server = Server::virtiofsd(shared.path(), &socket);
    let (vm, mut session) = talk(&with_share(&socket));
    compares(&mut session, &shared);
    // virtiofsd serves one connection in its life, as a container runtime knows, who starts another.
    vm.monitor.must("vm.shutdown");
    drop((server, session));
    let _server = Server::virtiofsd(shared.path(), &socket);
    vm.monitor.must("vm.boot");
    let mut session = crate::serial::join(&vm);
    session.line("GRANULE serving");
    compares(&mut session, &shared);
    vm.monitor.shutdown();
}

#[test]
fn a_server_that_dies_is_announced_and_taken_up_again() {
    let (shared, place) = (Folder::new(), Folder::new());
    plant(&shared);
    let socket = place.file("virtiofsd.sock");
    let server = Server::virtiofsd(shared.path(), &socket);
    let (vm, mut session) = talk(&with_share(&socket));
    compares(&mut session, &shared);
    server.kill();
    let events = vm.monitor.events();
    assert_eq!(events.wait_for("virtio-device:died").properties["id"], "_fs0");
    assert_eq!(events.wait_for("virtio-device:needs-reset").properties["id"], "_fs0");
    assert_eq!((vm.monitor.get("vmm.ping").code, vm.monitor.state()), (200, "Running".to_owned()));
    session.say("echo alive");
    session.line("GRANULE echo alive");
    let _server = Server::virtiofsd(shared.path(), &socket);
    assert_eq!(events.wait_for("virtio-device:restarted").properties["id"], "_fs0");
    compares(&mut session, &shared);
    vm.monitor.shutdown();
}

#[test]
fn a_socket_that_nobody_serves_is_refused_by_its_field_and_the_api_goes_on() {
    let (shared, place) = (Folder::new(), Folder::new());
    let socket = place.file("virtiofsd.sock");
    let monitor = Monitor::start();
    assert_eq!(monitor.send("vm.create", &with_share(&socket).body(&monitor)).code, 204);
    let api = monitor.socket();
    let refused = std::thread::scope(|scope| {
        let booting = scope.spawn(move || {
            let mut client = Client::connect(&api).unwrap();
            client.call("PUT", "/api/v1/vm.boot", None).unwrap()
        });
        let asked = Instant::now();
        assert_eq!(monitor.get("vmm.ping").code, 200);
        assert!(asked.elapsed() < Duration::from_secs(20), "a socket that is not there held up vmm.ping");
        booting.join().unwrap()
    });
    assert_eq!(refused.code, 400, "{refused:?}");
    let causes = refused.json().to_string();
    assert!(causes.contains("fs[0].socket") && causes.contains(&socket), "{causes}");
    assert_eq!(monitor.state(), "Created");
    let _server = Server::virtiofsd(shared.path(), &socket);
    monitor.must("vm.boot");
    monitor.shutdown();
}

#[test]
fn a_server_that_never_answers_holds_up_nobody_but_the_boot() {
    let place = Folder::new();
    let socket = place.file("mute.sock");
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let monitor = Monitor::start();
    assert_eq!(monitor.send("vm.create", &with_share(&socket).body(&monitor)).code, 204);
    let refused = monitor.put("vm.boot");
    assert!(refused.code >= 400, "{refused:?}");
    assert!(refused.json().to_string().contains("_fs0"), "{refused:?}");
    assert_eq!((monitor.get("vmm.ping").code, monitor.state()), (200, "Created".to_owned()));
    monitor.shutdown();
}

#[test]
fn our_own_processes_serve_as_a_generic_device_as_a_disk_and_as_an_interface() {
    let (place, images) = (Folder::new(), Images::new());
    let [rng_socket, socket, disk_socket, net_socket] =
        ["rng.sock", "relay.sock", "blk.sock", "net.sock"].map(|name| place.file(name));
    let _server = Server::granule_device(&["rng"], &rng_socket);
    relay::hide(relay::DEVICE_STATE, &rng_socket, &socket);
    let image = images.filled("image", 1, 4 * MIB);
    let _disk = Server::granule_device(&["blk", "--image", &image], &disk_socket);
    let device = json!([{"device_type": 4, "queue_sizes": [256], "socket": socket, "id": "mine"}]);
    let disk = json!([{"vhost_user": true, "vhost_socket": disk_socket}]);
    let _net =
        Server::granule_device(&["net", "--tap", "granule-x", "--mac", "02:00:00:00:09:02"], &net_socket);
    let up = ["granule-x", "10.9.9.1", "netmask", "255.255.255.0", "up"];
    assert!(Command::new("ifconfig").args(up).status().unwrap().success());
    let mac = "02:00:ca:fe:00:09";
    let interface = json!([{"vhost_user": true, "vhost_socket": net_socket, "mac": mac, "mtu": 1400}]);
    let devices = guest().set("/generic_vhost_user", device).set("/disks", disk).set("/net", interface);
    let (vm, mut session) = talk(&devices);
    session.say(&format!("start tcp {}", net::address(9)));
    session.line("GRANULE started tcp");
    net::echoes(9, 1, MIB);
    let seen = session.check("nic:eth0");
    assert_eq!((&seen["address"], &seen["mtu"]), (&json!(mac), &json!("1400")), "{seen}");
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    assert_eq!(session.check(&format!("disk:write:vda:2:0:{MIB}"))["written"], MIB);
    assert_eq!((images.wrong("image", 2, 0, MIB), images.wrong("image", 1, MIB, 3 * MIB)), (0, 0));
    let pci = session.check("pci");
    let sources = pci["virtio"].as_array().unwrap().iter().filter(|d| d["driver"] == "virtio_rng").count();
    assert_eq!(sources, 2, "{pci}");
    let activated = || {
        let events = vm.monitor.events().all();
        events.into_iter().find(|e| e.event == "activated" && e.properties["id"] == "mine")
    };
    assert!(wait::until(wait::LONG, activated).is_some(), "{:?}", vm.monitor.events().all());
    // One that cannot tell what it remembers is in the way of a snapshot, and of nothing else.
    for live in [true, false] {
        if !live {
            vm.monitor.must("vm.pause");
        }
        let (before, store) = (vm.monitor.info(), Folder::new());
        let body = json!({"destination_url": url(&store.file("one")), "live": live});
        let refused = vm.monitor.send("vm.snapshot", &body);
        assert_eq!(refused.code, 400, "{refused:?}");
        for word in ["\\\"mine\\\"", "cannot save its state", "remove the device first"] {
            assert!(refused.body.contains(word), "{word}: {refused:?}");
        }
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0, "something half is left");
        let after = vm.monitor.info();
        assert_eq!((&after["state"], &after["config"]), (&before["state"], &before["config"]));
    }
    vm.monitor.must("vm.resume");
    net::echoes(9, 1, MIB);
    assert_eq!(session.check(&format!("disk:read:vda:2:0:{MIB}"))["wrong"], 0);
    vm.monitor.shutdown();
}
