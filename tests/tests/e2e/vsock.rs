//! Sockets between guest and host, by the hybrid protocol.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use granule_tests::folder::Folder;
use granule_tests::monitor::{Monitor, is_socket};
use granule_tests::pattern;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use serde_json::{Value, json};

use crate::guest;
use crate::serial::{join, talk};

const PORT: u32 = 7;
const CHUNK: usize = 1 << 16;

/// A guest whose service listens, and where its socket is.
fn start(folder: &Folder) -> (Vm, Session, String) {
    let path = folder.file("v.sock");
    let (vm, mut session) = talk(&guest().set("/vsock", json!({"cid": 3, "socket": path})));
    start_service(&mut session);
    (vm, session, path)
}

pub fn start_service(session: &mut Session) {
    session.say("start vsock");
    session.line("GRANULE started vsock");
}

fn dial(path: &str, port: u32) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    stream.set_write_timeout(Some(wait::LONG)).unwrap();
    (&stream).write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    stream
}

/// A connection to the guest's service, which was told `command`.
pub fn command(path: &str, command: &str) -> UnixStream {
    let mut stream = dial(path, PORT);
    assert!(line(&mut stream).starts_with("OK "));
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    stream
}

fn line(stream: &mut UnixStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') {
        match stream.read(&mut byte) {
            Ok(1) => line.push(char::from(byte[0])),
            end => panic!("{end:?} after {line:?}"),
        }
    }
    line
}

fn answer(stream: &mut UnixStream) -> Value {
    let line = line(stream);
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
}

fn send(mut stream: &UnixStream, seed: u64, bytes: u64) {
    let mut chunk = vec![0; CHUNK];
    for at in (0..bytes).step_by(CHUNK) {
        let count = (bytes - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut chunk[..count], seed, at);
        stream.write_all(&chunk[..count]).unwrap_or_else(|e| panic!("{e} at byte {at}"));
    }
}

fn wrong(mut stream: &UnixStream, seed: u64, bytes: u64) -> usize {
    let (mut chunk, mut wrong) = (vec![0; CHUNK], 0);
    for at in (0..bytes).step_by(CHUNK) {
        let chunk = &mut chunk[..(bytes - at).min(CHUNK as u64) as usize];
        stream.read_exact(chunk).unwrap_or_else(|e| panic!("{e} at byte {at}"));
        wrong += pattern::wrong(chunk, seed, at);
    }
    wrong
}

/// Everything that is sent comes back.
pub fn echoes(path: &str, seed: u64, bytes: u64) {
    let stream = command(path, "echo");
    let sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        send(&sender, seed, bytes);
        sender.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(wrong(&stream, seed, bytes), 0);
    sending.join().unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "more came back than was sent");
}

/// A server of the host that sends back what it gets.
fn echo_server(path: &str, port: u32) {
    let listener = UnixListener::bind(format!("{path}_{port}")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                std::io::copy(&mut &stream, &mut &stream).unwrap_or_default();
                stream.shutdown(Shutdown::Write).unwrap_or_default();
            });
        }
    });
}

#[test]
fn content_goes_both_ways_whoever_connects() {
    let folder = Folder::new();
    let (vm, _session, path) = start(&folder);
    assert_eq!(fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::mode(&m) & 0o777).unwrap(), 0o700);
    let began = Instant::now();
    echoes(&path, 1, 256 * MIB);
    println!("256 MiB to the guest and back in {:?}", began.elapsed());
    echo_server(&path, 1025);
    let began = Instant::now();
    let mut control = command(&path, &format!("dial 1025 2 {}", 64 * MIB));
    assert_eq!(answer(&mut control), json!({"bytes": 64 * MIB, "wrong": 0}));
    println!("64 MiB to the host and back in {:?}", began.elapsed());

    let info = vm.monitor.info();
    let id = info["config"]["vsock"]["id"].as_str().unwrap();
    assert!(id.starts_with("_vsock"), "{id}");
    assert!(info["device_tree"][format!("_virtio-pci-{id}")]["pci_bdf"].is_string(), "{info}");
    vm.monitor.shutdown();
    assert!(!is_socket(path.as_ref()), "the socket stays behind");
}

#[test]
fn fifty_connections_at_once_do_not_mix() {
    let folder = Folder::new();
    let (vm, _session, path) = start(&folder);
    let clients: Vec<_> = (0..50)
        .map(|seed| {
            let path = path.clone();
            std::thread::spawn(move || echoes(&path, seed, 256 << 10))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    vm.monitor.shutdown();
}

#[test]
fn what_is_received_changes_data_and_no_tags() {
    let folder = Folder::new();
    let (vm, _session, path) = start(&folder);
    let mut stream = command(&path, &format!("sink 5 {}", 4 * MIB));
    send(&stream, 5, 4 * MIB);
    let expected = json!({"bytes": 4 * MIB, "wrong": 0, "wrong_tags": 0, "blocks": 1024});
    assert_eq!(answer(&mut stream), expected);
    vm.monitor.shutdown();
}

#[test]
fn ports_where_nobody_listens_are_refused_either_way() {
    let folder = Folder::new();
    let (vm, _session, path) = start(&folder);
    let mut nobody = dial(&path, 9999);
    assert_eq!(nobody.read(&mut [0]).unwrap(), 0, "the guest listens on no such port");
    let mut control = command(&path, "dial 4242 1 8");
    let refused = answer(&mut control);
    assert!(refused["errno"].is_i64(), "the host listens on no such port: {refused}");
    let mut nonsense = UnixStream::connect(&path).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(nonsense.read(&mut [0]).unwrap_or_default(), 0);
    echoes(&path, 3, MIB);
    vm.monitor.shutdown();
}

#[test]
fn a_killed_process_resets_its_connections_and_no_more() {
    let folder = Folder::new();
    let (vm, mut session, path) = start(&folder);
    // One connection idles in the guest, one is busy.
    let mut idle = command(&path, "sink 1 1000000");
    let busy = command(&path, "echo");
    let sender = busy.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let chunk = [7; CHUNK];
        while (&sender).write_all(&chunk).is_ok() {}
    });
    (&busy).read_exact(&mut [0; 1 << 20]).unwrap();
    vm.monitor.process("device vsock").kill();
    // Bytes that were under way come first.
    let mut chunk = [0; CHUNK];
    while (&busy).read(&mut chunk).is_ok_and(|count| count > 0) {}
    sending.join().unwrap();
    assert!(idle.read(&mut [0]).map_err(|e| e.kind()).is_ok_and(|count| count == 0));

    let again = wait::until(wait::LONG, || {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"connect 7\n").ok()?;
        let mut ok = [0; 3];
        match stream.read_exact(&mut ok) {
            Ok(()) => (&ok == b"OK ").then_some(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(_) => None,
        }
    });
    assert!(again.is_some(), "no new connection; {}", vm.monitor.doing());
    echoes(&path, 9, MIB);
    // The guest has noticed that the idle connection is gone: the service's thread has ended.
    session.say("echo alive");
    assert_eq!(session.line("GRANULE echo "), "alive");
    assert_eq!(vm.monitor.state(), "Running");
    vm.monitor.shutdown();
}

#[test]
fn a_guest_that_reboots_has_the_same_socket_and_no_old_connections() {
    let folder = Folder::new();
    let (vm, session, path) = start(&folder);
    let mut old = command(&path, "echo");
    vm.monitor.must("vm.reboot");
    assert_eq!(old.read(&mut [0]).unwrap_or_default(), 0);
    drop(session);
    start_service(&mut join(&vm));
    echoes(&path, 4, MIB);
    vm.monitor.shutdown();
}

#[test]
fn bad_configurations_are_refused_with_the_fields_name() {
    let monitor = Monitor::start();
    let refused = |config: Value| {
        let mut body = guest().body(&monitor);
        body["vsock"] = config;
        let answer = monitor.send("vm.create", &body);
        let answer = if answer.code == 204 { monitor.put("vm.boot") } else { answer };
        monitor.put("vm.delete");
        (answer.code, answer.causes())
    };
    let taken = monitor.folder().file("taken");
    let listener = UnixListener::bind(&taken).unwrap();
    for (config, field) in [
        (json!({"cid": 2, "socket": "/tmp/v"}), "vsock.cid"),
        (json!({"cid": 1_u64 << 32, "socket": "/tmp/v"}), "vsock.cid"),
        (json!({"cid": 3, "socket": ""}), "vsock.socket"),
        (json!({"cid": 3, "socket": taken}), "vsock.socket"),
        (json!({"cid": 3, "socket": "/no/such/folder/v"}), "vsock.socket"),
        (json!({"cid": 3, "socket": "/tmp/v", "iommu": true}), "vsock.iommu"),
    ] {
        let (code, causes) = refused(config.clone());
        assert_eq!(code, 400, "{config}: {causes:?}");
        assert!(causes.iter().any(|cause| cause.contains(field)), "{config}: {causes:?}");
    }
    drop(listener);
    fs::remove_file(taken).unwrap();
    monitor.shutdown();
}
