//! The virtio console, `hvc0`: every mode of `console`, and what its process survives.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use granule_tests::vm::{Guest, Vm};
use granule_tests::wait;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::guest;
use crate::serial::{Following, converses};

/// A guest whose first program talks on the virtio console and nowhere else.
fn on_hvc0(console: serde_json::Value) -> Guest {
    guest().set("/console", console).set("/serial", json!({"mode": "Null"})).word("console=hvc0")
}

fn join(path: &str) -> Session {
    let stream = UnixStream::connect(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Session::new(stream.try_clone().unwrap(), stream)
}

#[test]
fn socket_has_a_login_that_can_be_left_and_joined_again() {
    let place = granule_tests::folder::Folder::new();
    let path = place.file("hvc0.sock");
    let vm = Vm::boot(&on_hvc0(json!({"mode": "Socket", "socket": path})));
    let mut session = join(&path);
    session.line("GRANULE serving");
    converses(&mut session);
    drop(session);
    let mut session = join(&path);
    session.say("echo joined");
    session.line("GRANULE echo joined");
    // The process that serves it goes, and with it this client; whoever comes next finds the guest where it was.
    vm.monitor.process("device console").kill();
    vm.monitor.events().wait_for("virtio-device:restarted");
    let mut session = join(&path);
    session.say("echo still there");
    session.line("GRANULE echo still there");
    vm.monitor.shutdown();
    assert!(!std::path::Path::new(&path).exists(), "the socket stays behind");
}

#[test]
fn pty_talks_both_ways_and_its_size_is_the_guests() {
    let vm = Vm::boot(&on_hvc0(json!({"mode": "Pty"})));
    let info = vm.monitor.info();
    let path = info["config"]["console"]["file"].as_str().unwrap_or_else(|| panic!("{info}")).to_owned();
    let pty = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut session = Session::new(pty.try_clone().unwrap(), pty.try_clone().unwrap());
    session.line("GRANULE serving");
    converses(&mut session);
    tcsetwinsize(&pty, Winsize { ws_row: 43, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let size = wait::until(wait::LONG, || {
        let size = session.check("window");
        (size != json!({"columns": 0, "rows": 0})).then_some(size)
    });
    assert_eq!(size, Some(json!({"columns": 132, "rows": 43})));
    vm.monitor.shutdown();
}

#[test]
fn file_and_standard_output_hold_what_the_guest_wrote() {
    let place = granule_tests::folder::Folder::new();
    let path = place.file("hvc0");
    let vm = Vm::boot(&on_hvc0(json!({"mode": "File", "file": path})).word("granule.then=poweroff"));
    assert_eq!(vm.monitor.wait().code(), Some(0));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("GRANULE init up ") && text.contains("GRANULE then poweroff"), "{text}");

    let (stdin, ours) = std::io::pipe().unwrap();
    let monitor =
        Monitor::spawn(Stdio::from(stdin), |folder| vec!["--api-socket".to_owned(), folder.file("api.sock")]);
    monitor.wait_ready();
    assert_eq!(monitor.send("vm.create", &on_hvc0(json!({"mode": "Tty"})).body(&monitor)).code, 204);
    monitor.must("vm.boot");
    let output = fs::File::open(monitor.folder().file("stdout")).unwrap();
    let mut session = Session::new(Following(output), ours);
    session.line("GRANULE serving");
    converses(&mut session);
    monitor.shutdown();
}

#[test]
fn a_client_that_does_not_read_stops_neither_guest_nor_api() {
    let place = granule_tests::folder::Folder::new();
    let path = place.file("hvc0.sock");
    let guest = guest()
        .set("/console", json!({"mode": "Socket", "socket": path}))
        .set("/serial", json!({"mode": "Socket"}));
    let vm = Vm::boot(&guest);
    let mut serial = crate::serial::join(&vm);
    serial.line("GRANULE serving");
    // A socket takes some hundred kilobytes, the process as much again: this is more than both.
    let _mute = UnixStream::connect(&path).unwrap();
    assert_eq!(serial.check("flood:/dev/hvc0"), json!({"bytes": 1 << 20}));
    let console = vm.monitor.process("device console");
    assert!(console.pss_kib().unwrap() < 64 << 10, "{:?}", console.pss_kib());
    assert_eq!(vm.monitor.get("vmm.ping").code, 200);
    vm.monitor.shutdown();
}
