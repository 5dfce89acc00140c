//! What a client may not do, and what happens when it does.

mod harness;

use std::time::Duration;

use granule_api::call::Call;
use granule_api::server::{Reply, ServerLimits};
use harness::{Server, answer};

const PING: &[u8] = b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";

fn with_body(length: usize, extra: &str) -> Vec<u8> {
    format!("PUT /api/v1/vm.create HTTP/1.1\r\n{extra}Content-Length: {length}\r\n\r\n").into_bytes()
}

#[test]
fn a_body_of_5_mib_is_refused_and_the_connection_lives_on() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(&with_body(5 << 20, ""));
    client.send(&vec![b' '; 5 << 20]);
    let answer = client.answer();
    assert!(answer.starts_with("HTTP/1.1 413 \r\n"), "{answer}");
    assert!(
        answer.ends_with("[\"Payload Too Large\",\"the body is larger than 4194304 bytes\"]"),
        "{answer}"
    );
    client.send(PING);
    assert!(client.answer().starts_with("HTTP/1.1 200 \r\n"));
}

#[test]
fn a_body_of_4_mib_is_read() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(&with_body(4 << 20, ""));
    let mut body = vec![b' '; 4 << 20];
    body[..2].copy_from_slice(b"{}");
    client.send(&body);
    assert!(client.answer().starts_with("HTTP/1.1 204 \r\n"));
}

#[test]
fn a_body_that_is_announced_as_far_too_large_is_not_read() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(&with_body(usize::MAX / 4, ""));
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 413 \r\n") && answer.contains("Connection: close\r\n"), "{answer}");
    let mut client = server.connect();
    client.send(&with_body(5 << 20, "Expect: 100-continue\r\n"));
    assert!(client.rest().starts_with("HTTP/1.1 413 \r\n"), "no go-ahead for what will not be read");
}

#[test]
fn half_a_request_is_refused_when_the_client_gives_up() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(b"GET /api/v1/vmm.p");
    client.no_more();
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(
        answer.ends_with("[\"Bad Request\",\"the request ended before its head was whole\"]"),
        "{answer}"
    );
    let mut client = server.connect();
    client.send(&[&with_body(10, ""), &b"{"[..]].concat());
    client.no_more();
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(server.exchange(PING, 1).starts_with("HTTP/1.1 200 \r\n"));
}

#[test]
fn half_a_request_is_refused_when_it_takes_too_long_but_silence_is_not() {
    let limits = ServerLimits { request_time: Duration::from_millis(50), ..ServerLimits::default() };
    let server = Server::with(limits, answer);
    let mut silent = server.connect();
    let mut used = server.connect();
    used.send(PING);
    used.answer();
    let mut head = server.connect();
    head.send(b"GET /api/v1/vmm.p");
    assert!(head.rest().starts_with("HTTP/1.1 408 \r\n"));
    let mut body = server.connect();
    body.send(&with_body(10, ""));
    assert!(body.rest().starts_with("HTTP/1.1 408 \r\n"));
    // Both connections have been silent for longer than a request may take.
    for client in [&mut silent, &mut used] {
        client.send(PING);
        assert!(client.answer().starts_with("HTTP/1.1 200 \r\n"));
    }
}

#[test]
fn a_head_that_never_ends_is_refused() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(b"GET /api/v1/vmm.ping HTTP/1.1\r\nX: ");
    client.send(&vec![b'a'; 16 * 1024]);
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(answer.ends_with("[\"Bad Request\",\"the head is too large\"]"), "{answer}");
}

#[test]
fn one_connection_too_many_makes_the_one_close_that_is_silent_for_longest() {
    let limits = ServerLimits { connections: 3, ..ServerLimits::default() };
    let server = Server::with(limits, answer);
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(PING);
        client.answer();
    }
    clients[0].send(PING);
    clients[0].answer();
    let mut fourth = server.connect();
    fourth.send(PING);
    assert!(fourth.answer().starts_with("HTTP/1.1 200 \r\n"));
    assert_eq!(clients[1].rest(), "", "the second one was silent for longest");
    for index in [0, 2] {
        clients[index].send(PING);
        assert!(clients[index].answer().starts_with("HTTP/1.1 200 \r\n"));
    }
}

#[test]
fn connections_on_which_a_call_is_under_way_are_not_closed_for_another() {
    let (sender, seen) = std::sync::mpsc::channel();
    let limits =
        ServerLimits { connections: 1, drain_time: Duration::from_millis(1), ..ServerLimits::default() };
    // The machine keeps requests without answering them.
    let server = Server::with(limits, move |request| sender.send(request).unwrap());
    let mut busy = server.connect();
    busy.send(PING);
    let under_way = seen.recv().unwrap();
    let answer = server.connect().rest();
    assert!(answer.starts_with("HTTP/1.1 429 \r\n"), "{answer}");
    under_way.answer(Ok(Reply::Empty204));
    assert!(busy.answer().starts_with("HTTP/1.1 204 \r\n"));
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let server = Server::start();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..50 {
                    client.send(PING);
                    assert!(client.answer().starts_with("HTTP/1.1 200 \r\n"));
                }
            });
        }
    });
}

#[test]
fn a_slow_call_delays_no_other_client() {
    let (sender, seen) = std::sync::mpsc::channel();
    let server = Server::with(ServerLimits::default(), move |request| match request.call {
        Call::VmBoot => sender.send(request).unwrap(),
        _ => answer(request),
    });
    let mut booting = server.connect();
    booting.send(b"PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n");
    let under_way = seen.recv().unwrap();
    assert!(server.exchange(PING, 1).starts_with("HTTP/1.1 200 \r\n"));
    under_way.answer(Ok(Reply::Empty204));
    assert!(booting.answer().starts_with("HTTP/1.1 204 \r\n"));
}

#[test]
fn when_the_server_stops_its_socket_is_gone_and_clients_are_let_go() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(PING);
    client.answer();
    let socket = server.socket();
    assert!(socket.exists());
    let (sender, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        server.stop();
        let _ = sender.send(());
    });
    assert_eq!(client.rest(), "");
    stopped.recv().unwrap();
    assert!(!socket.exists());
}
