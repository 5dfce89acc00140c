//! The API's wire, byte for byte: what known clients send, and what hostile ones do. Every answer is held against the
//! rules of `client::Response::parse`.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use granule_tests::monitor::Monitor;

const PING: &[u8] = b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn ping_tells_who_answers() {
    let monitor = Monitor::start();
    let answer = monitor.get("vmm.ping");
    let pong = monitor.wait_probed();
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert!(answer.header("Server").is_some(), "{answer:?}");
    assert_eq!(pong["pid"], monitor.pid(), "the process that the runtime started");
    assert!(pong["version"].is_string() && pong["build_version"].is_string(), "{pong}");
    let features = pong["features"].as_array().unwrap();
    for feature in ["kvm", "mte"] {
        assert!(features.contains(&feature.into()), "{features:?}");
    }
    assert_eq!(pong["mte"]["available"], true);
    monitor.shutdown();
}

#[test]
fn the_socket_belongs_to_its_user_alone() {
    let monitor = Monitor::start();
    let mode = monitor.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    monitor.shutdown();
}

#[test]
fn one_connection_serves_many_requests_pipelined_or_not() {
    let monitor = Monitor::start();
    let mut client = monitor.client();
    for _ in 0..20 {
        assert_eq!(client.call("GET", "/api/v1/vmm.ping", None).unwrap().code, 200);
        assert_eq!(client.call("PUT", "/api/v1/vm.boot", None).unwrap().code, 404);
    }
    client.send(&PING.repeat(20)).unwrap();
    for _ in 0..20 {
        assert_eq!(client.receive().unwrap().code, 200);
    }
    monitor.shutdown();
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let monitor = Monitor::start();
    let mut client = monitor.client();
    for byte in PING {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.receive().unwrap().code, 200);
    monitor.shutdown();
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let monitor = Monitor::start();
    let mut client = monitor.client();
    let head = "PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap().code, 100);
    client.send(b"{}").unwrap();
    assert_eq!(client.receive().unwrap().code, 400);
    monitor.shutdown();
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    let monitor = Monitor::start();
    let cases = [
        ("GET", "/", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v1/vm.explode", 404),
        ("GET", "/api/v2/vmm.ping", 404),
        ("GET", "/api/v1/vmm.ping/", 404),
        ("GET", "/api/v1/vmm.ping?x=1", 404),
        ("GET", "/api/v1/../v1/vmm.ping", 404),
        ("PUT", "/api/v1/vmm.ping", 405),
        ("POST", "/api/v1/vm.create", 405),
        ("DELETE", "/api/v1/vm.info", 405),
        ("GET", "/api/v1/vm.boot", 405),
    ];
    for (method, path, code) in cases {
        let answer = monitor.client().call(method, path, None).unwrap();
        assert_eq!(answer.code, code, "{method} {path}: {answer:?}");
        answer.causes();
    }
    monitor.shutdown();
}

#[test]
fn a_body_where_there_is_none_and_none_where_there_is_one_are_refused() {
    let monitor = Monitor::start();
    assert_eq!(monitor.client().call("PUT", "/api/v1/vm.boot", Some("{}")).unwrap().code, 400);
    assert_eq!(monitor.put("vm.create").code, 400);
    monitor.shutdown();
}

#[test]
fn a_body_of_five_mib_is_refused_and_one_of_three_is_read() {
    let monitor = Monitor::start();
    let before = monitor.process("control").pss_kib().unwrap();
    let body = " ".repeat(5 << 20);
    let mut client = monitor.client();
    let head = format!(
        "PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).unwrap();
    // The server may answer, and close, before it has it all.
    let sent = client.send(body.as_bytes());
    match client.receive() {
        Ok(answer) => assert_eq!((answer.code, answer.causes().is_empty()), (413, false)),
        Err(error) => panic!("{error}; the body was sent: {sent:?}"),
    }
    let fits = format!("{}{{}}", " ".repeat(3 << 20));
    let answer = monitor.client().call("PUT", "/api/v1/vm.create", Some(&fits)).unwrap();
    assert_eq!(answer.code, 400, "it was read, and has no kernel: {answer:?}");
    let after = monitor.process("control").pss_kib().unwrap();
    assert!(after < before + 8 * 1024, "control grew from {before} to {after} KiB");
    monitor.shutdown();
}

#[test]
fn half_a_request_costs_nobody_anything() {
    let monitor = Monitor::start();
    for cut in [1, 10, 30, PING.len() - 1] {
        let mut client = monitor.client();
        client.send(&PING[..cut]).unwrap();
        drop(client);
    }
    let mut body = monitor.client();
    body.send(b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").unwrap();
    let mut head = monitor.client();
    head.send(&PING[..20]).unwrap();
    // Both are still open and half said.
    assert_eq!(monitor.get("vmm.ping").code, 200);
    drop((body, head));
    assert_eq!(monitor.get("vmm.ping").code, 200);
    monitor.shutdown();
}

#[test]
fn what_is_no_http_is_refused_and_the_connection_closed() {
    let monitor = Monitor::start();
    let garbage: [&[u8]; 5] = [
        b"\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /api/v1/vmm.ping HTTP/9.9\r\n\r\n",
        b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: minus\r\n\r\n",
        b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ];
    for bytes in garbage {
        let mut client = monitor.client();
        client.send(bytes).unwrap();
        match client.receive() {
            Ok(answer) => {
                assert_eq!(answer.code, 400, "{}", String::from_utf8_lossy(bytes));
                assert!(client.is_closed(), "open after {}", String::from_utf8_lossy(bytes));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{}", String::from_utf8_lossy(bytes));
            }
        }
    }
    assert_eq!(monitor.get("vmm.ping").code, 200);
    monitor.shutdown();
}

#[test]
fn a_head_without_end_is_refused() {
    let monitor = Monitor::start();
    let mut client = monitor.client();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    client.send(b"GET /api/v1/vmm.ping HTTP/1.1\r\n").unwrap();
    // Sixteen MiB; the server closes long before.
    let sent = (0..16_000).take_while(|_| client.send(line.as_bytes()).is_ok()).count();
    assert!(sent < 16_000, "the server read a head of 16 MiB");
    assert_eq!(monitor.get("vmm.ping").code, 200);
    monitor.shutdown();
}

#[test]
fn many_connections_at_once_are_all_answered() {
    let monitor = Monitor::start();
    let mut clients: Vec<_> = (0..64).map(|_| monitor.client()).collect();
    for client in &mut clients {
        client.send(PING).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().code, 200);
    }
    monitor.shutdown();
}
