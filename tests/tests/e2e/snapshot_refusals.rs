//! Snapshots that cannot be written: the reason is told, nothing half is left, and the guest goes on.

use std::fs;
use std::path::Path;

use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::snapshot::{snapshot, url};
use crate::tiny;

/// A file system in memory with this option; gone with this.
struct Disk(String);

impl Disk {
    fn new(path: String, flags: MountFlags, option: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let option = std::ffi::CString::new(option).unwrap();
        mount("none", &path, "tmpfs", flags, Some(&*option)).unwrap();
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left of it goes with the lab.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn refused(monitor: &Monitor, path: &str, live: bool, code: u16, reason: &str) {
    let body = json!({"destination_url": url(path), "live": live});
    let answer = monitor.send("vm.snapshot", &body);
    assert_eq!(answer.code, code, "{path}: {answer:?}");
    assert!(answer.body.contains(reason), "{path}: {reason}: {answer:?}");
    assert!(!Path::new(path).join("manifest.json").exists(), "{path}");
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn goes_on(session: &mut Session) {
    tiny::is_right(session);
    tiny::writes(session);
    tiny::is_right(session);
}

#[test]
fn a_disk_that_is_full_or_read_only_and_a_client_that_hangs_up_leave_nothing_half_and_a_guest_that_goes_on() {
    let (vm, mut session) = tiny::boot();
    let store = Folder::new();
    let full = Disk::new(store.file("full"), MountFlags::empty(), "size=16k");
    let fixed = Disk::new(store.file("fixed"), MountFlags::RDONLY, "size=1m");
    for live in [false, true] {
        if !live {
            vm.monitor.must("vm.pause");
        }
        refused(&vm.monitor, &format!("{}/one", full.0), live, 500, "No space left on device");
        assert_eq!(entries(&full.0), 0, "something half is left");
        refused(&vm.monitor, &format!("{}/one", fixed.0), live, 500, "Read-only file system");
        assert_eq!(vm.monitor.state(), if live { "Running" } else { "Paused" });
        if !live {
            vm.monitor.must("vm.resume");
        }
        goes_on(&mut session);
    }
    let occupied = store.file("occupied");
    fs::write(&occupied, "a file").unwrap();
    refused(&vm.monitor, &occupied, true, 400, "occupied");

    // Nobody hears how it ended; whatever is there is whole.
    let path = store.file("unheard");
    let body = json!({"destination_url": url(&path), "live": true}).to_string();
    let head =
        format!("PUT /api/v1/vm.snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = vm.monitor.client();
    client.send(format!("{head}{body}").as_bytes()).unwrap();
    drop(client);
    // Waits for what is under way.
    vm.monitor.must("vm.pause");
    if Path::new(&path).exists() {
        let whole = granule_snapshot::directory::Snapshot::open(path.as_ref()).unwrap();
        whole.memory().unwrap().verify().unwrap();
        fs::remove_dir_all(&path).unwrap();
    }
    snapshot(&vm.monitor, &path);
    vm.monitor.must("vm.resume");
    goes_on(&mut session);
    vm.monitor.shutdown();
}
