//! File descriptors that come with requests: to whom they go, and that none stays behind.
//!
//! One test, for it counts the descriptors of the whole process.

mod harness;

use harness::{Client, Server, borrowed, pipes};

const HEAD: &str = "PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
const BOOT: &[u8] = b"PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n";

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// How many descriptors the machine was given with the next answer's request.
fn given(client: &mut Client) -> usize {
    let answer = client.answer();
    let number = answer.split("{\"fds\":").nth(1).and_then(|rest| rest.strip_suffix('}'));
    number.unwrap_or_else(|| panic!("{answer}")).parse().expect("a number")
}

#[test]
fn descriptors_go_with_their_request_and_none_is_left() {
    let server = Server::start();
    let before = open_descriptors();
    all_in_one_packet(&server);
    in_any_packet_of_the_request(&server);
    with_the_request_they_came_with(&server);
    dropped_where_they_are_of_no_use(&server);
    too_many(&server);
    with_what_is_no_request(&server);
    // The server closes what a client left behind when it sees that the client is gone; a request on a later
    // connection may be answered before that.
    let patience = std::time::Instant::now() + harness::LONG;
    while open_descriptors() > before {
        assert!(std::time::Instant::now() < patience, "{} descriptors left", open_descriptors() - before);
        server.exchange(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n", 1);
    }
}

fn all_in_one_packet(server: &Server) {
    let fds = pipes(3);
    let mut client = server.connect();
    client.send_with_fds(format!("{HEAD}{{}}").as_bytes(), &borrowed(&fds));
    assert_eq!(given(&mut client), 3);
}

fn in_any_packet_of_the_request(server: &Server) {
    let request = format!("{HEAD}{{}}").into_bytes();
    let fds = pipes(2);
    let mut client = server.connect();
    for cut in 1..request.len() {
        client.send(&request[..cut]);
        client.send_with_fds(&request[cut..], &borrowed(&fds));
        assert_eq!(given(&mut client), 2, "in the second packet, from byte {cut}");
        client.send_with_fds(&request[..cut], &borrowed(&fds));
        client.send(&request[cut..]);
        assert_eq!(given(&mut client), 2, "in the first packet, up to byte {cut}");
        client.send_with_fds(&request[..cut], &borrowed(&fds[..1]));
        client.send_with_fds(&request[cut..], &borrowed(&fds[1..]));
        assert_eq!(given(&mut client), 2, "in both");
    }
}

fn with_the_request_they_came_with(server: &Server) {
    let fds = pipes(4);
    let request = format!("{HEAD}{{}}").into_bytes();
    let mut client = server.connect();
    // Sent without waiting for answers: each keeps its own.
    client.send(&request);
    client.send_with_fds(&request, &borrowed(&fds[..1]));
    client.send(&request);
    client.send_with_fds(&request, &borrowed(&fds));
    client.send_with_fds(&request, &borrowed(&fds[..2]));
    assert_eq!((0..5).map(|_| given(&mut client)).collect::<Vec<_>>(), [0, 1, 0, 4, 2]);
}

fn dropped_where_they_are_of_no_use(server: &Server) {
    let fds = pipes(4);
    let mut client = server.connect();
    client.send_with_fds(BOOT, &borrowed(&fds));
    client.answer();
    client.send_with_fds(b"GET /nowhere HTTP/1.1\r\n\r\n", &borrowed(&fds));
    client.answer();
    client.send(HEAD.as_bytes());
    client.send_with_fds(b"1}", &borrowed(&fds));
    assert!(client.answer().starts_with("HTTP/1.1 400 \r\n"));
    client.send(format!("{HEAD}{{}}").as_bytes());
    assert_eq!(given(&mut client), 0, "none of them went to a later request");
}

fn too_many(server: &Server) {
    let fds = pipes(200);
    let mut client = server.connect();
    client.send_with_fds(HEAD.as_bytes(), &borrowed(&fds));
    client.send_with_fds(b"{}", &borrowed(&fds));
    let answer = client.answer();
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(answer.ends_with("[\"Bad Request\",\"more than 253 file descriptors\"]"), "{answer}");
    client.send_with_fds(format!("{HEAD}{{}}").as_bytes(), &borrowed(&fds));
    assert_eq!(given(&mut client), 200);
}

fn with_what_is_no_request(server: &Server) {
    let fds = pipes(10);
    let mut client = server.connect();
    client.send_with_fds(b"nonsense\r\n\r\n", &borrowed(&fds));
    assert!(client.rest().starts_with("HTTP/1.1 400 \r\n"));
    let mut client = server.connect();
    client.send_with_fds(b"PUT /api/v1/vm.add-net HT", &borrowed(&fds));
    drop(client);
    let mut client = server.connect();
    client.send_with_fds(HEAD.as_bytes(), &borrowed(&fds));
    drop(client);
}
