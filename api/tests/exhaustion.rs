//! A process that has no descriptors left: clients are told, and served again when there are some.
//!
//! One test, for it changes a limit of the whole process.

mod harness;

use std::os::fd::{AsRawFd, OwnedFd};

use harness::{Server, borrowed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PING: &[u8] = b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
const ADD_NET: &[u8] = b"PUT /api/v1/vm.add-net HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";

/// Lets this process open only as many more descriptors.
fn leave(room: u64) {
    // The kernel gives out the lowest free number.
    let lowest = std::fs::File::open("/dev/null").expect("there is room for one").as_raw_fd();
    limit(u64::try_from(lowest).expect("a descriptor's number") + room);
}

fn limit(descriptors: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), maximum })
        .expect("a limit may be lowered");
}

#[test]
fn descriptors_that_cannot_be_taken_are_told_of_and_clients_wait_for_better_times() {
    let before = getrlimit(Resource::Nofile).current.expect("there is a limit");
    let server = Server::start();
    let fds: Vec<OwnedFd> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
    let mut client = server.connect();
    client.send(PING);
    client.answer();
    leave(10);
    client.send_with_fds(ADD_NET, &borrowed(&fds));
    let answer = client.answer();
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(answer.contains("file descriptors were lost: too many are open here"), "{answer}");
    limit(before);
    client.send_with_fds(ADD_NET, &borrowed(&fds));
    assert!(client.answer().ends_with("{\"fds\":100}"));
    // A client that cannot be accepted now is accepted later.
    let waiting =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    leave(0);
    let address = rustix::net::SocketAddrUnix::new(server.socket()).unwrap();
    rustix::net::connect(&waiting, &address).unwrap();
    client.send(PING);
    assert!(client.answer().starts_with("HTTP/1.1 200 \r\n"), "who is connected is served");
    limit(before);
    let mut waiting = harness::Client(waiting.into());
    waiting.send(PING);
    assert!(waiting.answer().starts_with("HTTP/1.1 200 \r\n"));
}
