//! Clients of others, as they are: the crate `cloud-hypervisor-client`, libvirt's driver, Kuasar's command line.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use cloud_hypervisor_client::apis::DefaultApi;
use cloud_hypervisor_client::models::{self, VmState};
use cloud_hypervisor_client::socket_based_api_client;
use granule_tests::console::Console;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::server::Server;
use granule_tests::session::Session;
use granule_tests::vm::MIB;
use granule_tests::{tap, wait};
use serde_json::{Value, json};

use crate::disks::Images;
use crate::guest;

/// A request with descriptors, as every client sends it: in one message. The answer must come in one piece, too: libvirt reads once.
fn add_net(monitor: &Monitor, body: &Value, taps: &[std::os::fd::OwnedFd]) -> u16 {
    let body = body.to_string();
    let request = format!(
        "PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut client = monitor.client();
    let fds: Vec<_> = taps.iter().map(AsFd::as_fd).collect();
    client.send_with(request.as_bytes(), &fds).unwrap();
    client.receive().unwrap().code
}

#[test]
fn the_crate_cloud_hypervisor_client_drives_a_full_life() {
    let images = Images::new();
    let image = images.filled("image", 3, 4 * MIB);
    let saved = Folder::new();
    let monitor = Monitor::start();
    let client = socket_based_api_client(monitor.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(client.vmm_ping_get().await.unwrap().version.starts_with(char::is_numeric));
        let config: models::VmConfig = serde_json::from_value(guest().body(&monitor)).unwrap();
        client.create_vm(config).await.unwrap();
        assert_eq!(client.vm_info_get().await.unwrap().state, VmState::Created);
        let taps = tap::open("granule-crate", 1).unwrap();
        assert_eq!(add_net(&monitor, &json!({"num_queues": 2}), &taps), 204);
        client.boot_vm().await.unwrap();
        let info = client.vm_info_get().await.unwrap();
        assert_eq!((info.state, info.memory_actual_size), (VmState::Running, Some(256 << 20)));
        assert!(info.device_tree.unwrap().len() >= 4);
        let mut disk = models::DiskConfig::new();
        (disk.path, disk.image_type) = (Some(image), Some(models::ImageType::Raw));
        let place = client.vm_add_disk_put(disk).await.unwrap();
        let same = models::VmResize { desired_vcpus: Some(1), ..models::VmResize::new() };
        client.vm_resize_put(same).await.unwrap();
        client.pause_vm().await.unwrap();
        assert_eq!(client.vm_info_get().await.unwrap().state, VmState::Paused);
        let destination_url = Some(format!("file://{}", saved.file("one")));
        client.vm_snapshot_put(models::VmSnapshotConfig { destination_url }).await.unwrap();
        client.resume_vm().await.unwrap();
        assert!(client.vm_counters_get().await.unwrap().contains_key(&place.id));
        client.shutdown_vm().await.unwrap();
        client.delete_vm().await.unwrap();
        assert!(client.vm_info_get().await.is_err(), "there is none any more");
        client.shutdown_vmm().await.unwrap();
    });
    assert_eq!(monitor.finish().code(), Some(0));
}

#[test]
fn libvirts_driver_finds_what_it_reads() {
    let place = Folder::new();
    let events = place.file("events");
    rustix::fs::mkfifoat(rustix::fs::CWD, &events, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let reader = fs::OpenOptions::new().read(true).write(true).open(&events).unwrap();
    let mut heard = Session::new(reader, std::io::sink());
    let taps = tap::open("granule-virt", 2).unwrap();
    // libvirt listens itself, and passes the socket on.
    let made = Folder::new();
    let listener = UnixListener::bind(made.file("api.sock")).unwrap();
    let monitor = Monitor::spawn_with_fds(&[listener.as_fd()], |folder, _| {
        // The harness looks for the socket in the folder of the monitor.
        fs::rename(made.file("api.sock"), folder.file("api.sock")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
        vec![format!("--api-socket=fd={number}"), format!("--event-monitor=path={events}")]
    });
    drop(listener);
    monitor.wait_ready();
    heard.line("\"event\": \"starting\"");

    let mut body = guest().body(&monitor);
    let payload = body["payload"].take();
    body = json!({"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 256 * MIB}, "payload": payload,
                  "console": {"mode": "Off"}, "serial": {"mode": "Pty"}});
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    let net = json!({"id": "net_0", "mac": "52:54:00:12:34:56", "num_queues": 4});
    assert_eq!(add_net(&monitor, &net, &taps), 204);
    monitor.must("vm.boot");
    for event in ["booting", "booted"] {
        heard.line(&format!("\"event\": \"{event}\""));
    }
    let info = monitor.info();
    let pty = info["config"]["serial"]["file"].as_str().unwrap().to_owned();
    assert!(pty.starts_with("/dev/pts/"), "{info}");
    assert_eq!(info["config"]["net"][0]["id"], "net_0");
    let terminal = fs::OpenOptions::new().read(true).write(true).open(&pty).unwrap();
    let mut serial = Session::new(terminal.try_clone().unwrap(), terminal);
    serial.say("");
    for (call, before, after) in [
        ("vm.pause", "pausing", "paused"),
        ("vm.resume", "resuming", "resumed"),
        ("vm.reboot", "rebooting", "rebooted"),
    ] {
        monitor.must(call);
        heard.line(&format!("\"event\": \"{before}\""));
        heard.line(&format!("\"event\": \"{after}\""));
    }
    monitor.must("vm.shutdown");
    heard.line("\"event\": \"shutdown\"");
    assert_eq!(monitor.put("vmm.shutdown").code, 200);
    heard.line("\"event\": \"deleted\"");
    heard.line("\"event\": \"shutdown\"");
    // The socket is libvirt's own to remove.
    let _ = fs::remove_file(monitor.folder().file("api.sock"));
    assert_eq!(monitor.finish().code(), Some(0));
}

/// The line of Kuasar's sandboxer, and the calls that it makes; the words of the guest's command line are the lab's.
#[test]
fn kuasars_line_works_as_it_stands() {
    let (shared, images) = (Folder::new(), Images::new());
    let root = images.filled("root", 4, 4 * MIB);
    let more = images.filled("more", 5, 2 * MIB);
    let taps = tap::open("granule-kuasar", 2).unwrap();
    let virtiofsd = Server::virtiofsd(shared.path(), &images_file(&shared, "../kuasar"));
    let socket = images_file(&shared, "../kuasar");
    let fds: Vec<_> = taps.iter().map(AsFd::as_fd).collect();
    let monitor = Monitor::spawn_with_fds(&fds, |folder, _| {
        let body = guest().body_in(folder);
        let text = |pointer: &str| body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let numbers: Vec<_> =
            taps.iter().map(|tap| std::os::fd::AsRawFd::as_raw_fd(tap).to_string()).collect();
        let cmdline = "console=hvc0 rdinit=/init granule.start=vsock root=/dev/pmem0p1 \
                       rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4 task.sharefs_type=virtiofs";
        [
            "--api-socket",
            &folder.file("api.sock"),
            "--cpus",
            "boot=1",
            "--memory",
            &format!("size={},shared=on,hugepages=off", 256 * MIB),
            "--kernel",
            &text("/payload/kernel"),
            "--initramfs",
            &text("/payload/initramfs"),
            "--cmdline",
            cmdline,
            "--pmem",
            &format!("id=rootfs,file={root},discard_writes=on"),
            "--rng",
            "id=rng,src=/dev/urandom",
            "--vsock",
            &format!("cid=3,socket={},id=vsock", folder.file("vsock.sock")),
            "--console",
            &format!("file={}", folder.file("console")),
            "--fs",
            &format!("tag=kuasar,socket={socket},id=fs"),
            "--net",
            &format!("id=tap,fd=[{}],mac=02:00:00:00:00:01,num_queues=4", numbers.join(",")),
            "-vv",
        ]
        .map(str::to_owned)
        .to_vec()
    });
    monitor.wait_ready();
    let mut console = Console::new(monitor.folder().path().join("console"));
    console.wait_for("GRANULE init up", || monitor.alive());
    let place = monitor.send("vm.add-disk", &json!({"id": "blk", "path": more, "image_type": "Raw"}));
    assert_eq!(place.code, 200, "{place:?}");
    assert!(place.json()["bdf"].is_string());
    // The task service of the guest, over the hybrid socket.
    let disks = wait::until(wait::LONG, || {
        let said = ask(&monitor.folder().file("vsock.sock"), "run disk:list");
        said.contains("\"vda\"").then_some(said)
    });
    assert!(disks.is_some(), "{}", monitor.doing());
    assert_eq!(monitor.send("vm.remove-device", &json!({"id": "blk"})).code, 204);
    let info = monitor.info();
    for (list, id) in [("pmem", "rootfs"), ("fs", "fs"), ("net", "tap")] {
        assert_eq!(info["config"][list][0]["id"], id, "{info}");
    }
    assert_eq!(info["config"]["net"][0]["num_queues"], 4);
    monitor.shutdown();
    drop(virtiofsd);
}

fn images_file(folder: &Folder, name: &str) -> String {
    format!("{}-{}.sock", folder.path().display(), name.trim_start_matches("../"))
}

fn ask(path: &str, line: &str) -> String {
    let talk = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "CONNECT 7\n{line}\n")?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    };
    talk().unwrap_or_default()
}
