//! Where the serial port's text goes and comes from: every mode of `serial`.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use granule_tests::folder::Folder;
use granule_tests::monitor::{Monitor, is_socket};
use granule_tests::session::Session;
use granule_tests::vm::{Guest, Vm};
use serde_json::json;

use crate::guest;

/// Boots a guest whose serial port is a socket, and talks to it.
pub fn talk(guest: &Guest) -> (Vm, Session) {
    talk_when(guest, "GRANULE serving")
}

/// As [`talk`], with a guest that says another word when it listens.
pub fn talk_when(guest: &Guest, mark: &str) -> (Vm, Session) {
    let vm = Vm::boot(&guest.clone().set("/serial", json!({"mode": "Socket"})));
    let mut session = join(&vm);
    session.line(mark);
    (vm, session)
}

pub fn join(vm: &Vm) -> Session {
    join_at(&vm.monitor)
}

/// As [`join`], where there is but a monitor.
pub fn join_at(monitor: &Monitor) -> Session {
    let stream = stream(monitor);
    Session::new(stream.try_clone().unwrap(), stream)
}

fn stream(monitor: &Monitor) -> UnixStream {
    let path = monitor.folder().file("serial.sock");
    UnixStream::connect(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The guest answers what it is told, and that all of it arrived.
pub fn converses(session: &mut Session) {
    session.say("echo hello");
    assert_eq!(session.line("GRANULE echo "), "hello");
    let long = "x".repeat(1000);
    session.say(&format!("echo {long}"));
    assert_eq!(session.line("GRANULE echo "), long, "more than the port's FIFO holds");
}

#[test]
fn file_holds_what_the_guest_wrote_from_its_first_boot_line_on() {
    let mut vm = Vm::boot(&guest().word("loglevel=7"));
    vm.wait_up();
    let text = vm.console.text();
    assert!(text.contains("Booting Linux on physical CPU 0x0000000000"), "{text}");
    vm.monitor.shutdown();
}

#[test]
fn off_gives_the_guest_no_serial_port() {
    let vm = Vm::boot(&guest().set("/serial", json!({"mode": "Off"})).word("granule.then=poweroff"));
    assert_eq!(vm.monitor.wait().code(), Some(0));
    assert_eq!(vm.monitor.output(), "");
}

#[test]
fn null_swallows_what_the_guest_writes() {
    let vm = Vm::boot(&guest().set("/serial", json!({"mode": "Null"})).word("granule.then=poweroff"));
    assert_eq!(vm.monitor.wait().code(), Some(0));
    assert_eq!(vm.monitor.output(), "");
}

#[test]
fn tty_is_standard_input_and_output() {
    let (stdin, ours) = std::io::pipe().unwrap();
    let monitor =
        Monitor::spawn(stdin.into(), |folder| vec!["--api-socket".to_owned(), folder.file("api.sock")]);
    monitor.wait_ready();
    let body = guest().set("/serial", json!({"mode": "Tty"})).body(&monitor);
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    monitor.must("vm.boot");
    // Standard output is a file here; it is read from its start.
    let mut session = Session::new(Following(fs::File::open(monitor.folder().file("stdout")).unwrap()), ours);
    session.line("GRANULE serving");
    converses(&mut session);
    monitor.shutdown();
}

/// A file that another process writes to: its end is not the end.
pub struct Following(pub fs::File);

impl std::io::Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = granule_tests::wait::until(granule_tests::wait::LONG, || match self.0.read(buffer) {
            Ok(0) => None,
            other => Some(other),
        });
        read.unwrap_or(Ok(0))
    }
}

#[test]
fn pty_is_named_by_vm_info_and_talks_both_ways() {
    let vm = Vm::boot(&guest().set("/serial", json!({"mode": "Pty"})));
    let info = vm.monitor.info();
    let path = info["config"]["serial"]["file"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", info["config"]["serial"]))
        .to_owned();
    assert!(path.starts_with("/dev/pts/"), "{path}");
    assert_eq!(info["config"]["serial"]["mode"], "Pty");
    let pty = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut session = Session::new(pty.try_clone().unwrap(), pty);
    session.line("GRANULE serving");
    converses(&mut session);
    vm.monitor.shutdown();
}

#[test]
fn socket_talks_both_ways_and_can_be_left_and_joined_again() {
    let (vm, mut session) = talk(&guest());
    assert_eq!(vm.monitor.info()["config"]["serial"]["mode"], "Socket");
    converses(&mut session);
    drop(session);
    let mut session = join(&vm);
    session.say("echo joined");
    session.line("GRANULE echo joined");
    vm.monitor.must("vm.shutdown");
    assert!(
        !is_socket(&vm.monitor.folder().path().join("serial.sock")),
        "the port's socket file is left behind"
    );
    vm.monitor.shutdown();
}

#[test]
fn a_socket_that_nobody_reads_does_not_hold_the_guest_up() {
    let serial = json!({"mode": "Socket"});
    let vm = Vm::boot(&guest().set("/serial", serial).word("loglevel=8").word("granule.then=poweroff"));
    let _silent = stream(&vm.monitor);
    assert_eq!(vm.monitor.wait().code(), Some(0));
}

#[test]
fn a_pty_that_nobody_reads_does_not_hold_the_guest_up() {
    let serial = json!({"mode": "Pty"});
    let vm = Vm::boot(&guest().set("/serial", serial).word("loglevel=8").word("granule.then=poweroff"));
    assert_eq!(vm.monitor.wait().code(), Some(0));
}

#[test]
fn input_that_the_guest_does_not_read_is_kept_within_bounds() {
    let vm = Vm::boot(&guest().set("/serial", json!({"mode": "Socket"})).word("granule.then=idle"));
    let mut stream = stream(&vm.monitor);
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    // Sixteen MiB at most; between two pieces everybody has time to take the first one.
    for _ in 0..256 {
        taken += std::io::Write::write(&mut stream, &[b'x'; 65536]).unwrap_or_default();
        assert_eq!(vm.monitor.get("vmm.ping").code, 200);
    }
    assert!(taken < 4 << 20, "{taken} bytes were taken for a guest that reads none");
    vm.monitor.shutdown();
}

#[test]
fn a_socket_path_that_is_taken_is_refused() {
    let folder = Folder::new();
    let path = folder.file("taken");
    fs::write(&path, "mine").unwrap();
    let vm = Vm::create(&guest().set("/serial", json!({"mode": "Socket", "socket": path})));
    let answer = vm.monitor.put("vm.boot");
    assert_eq!(answer.code, 400, "{answer:?}");
    assert!(answer.causes().iter().any(|c| c.contains("serial.socket")), "{answer:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    vm.monitor.shutdown();
}

#[test]
fn stdin_at_its_end_leaves_the_tty_guest_running() {
    let monitor =
        Monitor::spawn(Stdio::null(), |folder| vec!["--api-socket".to_owned(), folder.file("api.sock")]);
    monitor.wait_ready();
    let body = guest().set("/serial", json!({"mode": "Tty"})).word("granule.then=poweroff").body(&monitor);
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    monitor.must("vm.boot");
    assert_eq!(monitor.wait().code(), Some(0));
    assert!(monitor.output().contains("GRANULE init up"), "{}", monitor.output());
}
