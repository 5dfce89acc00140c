//! The device between a guest and a host that are both made by hand.

mod flow;
mod guest;
mod limits;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest::{CID, Guest, host_side};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::packet::{Header, Operation, Ports};
use super::spec::{
    EVENTS, FIRST_HOST_PORT, MAX_CONNECTIONS, MAX_HALF_OPEN, MAX_REFUSALS, MAX_WAITING, OPEN_TIMEOUT, RX,
    SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, TX, WINDOW,
};
use super::*;
use crate::contract::device_contract;
use crate::serve::{Device, Memory, Progress, Ring, RingFault};

/// A device that always has a packet for the guest, so that whatever the guest gives is used.
struct Talkative(VsockDevice);

impl Device for Talkative {
    fn features(&self) -> u64 {
        self.0.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.0.queue_sizes()
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        for _ in 0..MAX_REFUSALS {
            self.0.table.refuse(Ports { host: 1, guest: 2 });
        }
        self.0.serve(queue, ring, memory)
    }
}

device_contract!(
    Talkative(VsockDevice::new(GuestCid::try_from(CID).unwrap(), host_side().0)),
    |driver: &mut Driver| {
        driver.write([0u8; 32], BUFFERS);
        driver.describe(0, (BUFFERS, 64, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 44 && driver.read::<u64>(BUFFERS) == 2
);

#[test]
fn a_context_id_is_three_or_more_and_fits_32_bits() {
    for (number, fits) in [(0, false), (2, false), (3, true), (u64::from(u32::MAX), false), (1 << 32, false)]
    {
        assert_eq!(GuestCid::try_from(number).is_ok(), fits, "{number}");
    }
    assert_eq!(GuestCid::try_from(2).unwrap_err().to_string(), "2 is not in 3..=4294967294");
}

#[test]
fn a_client_is_connected_to_the_port_that_it_names() {
    let mut guest = Guest::start();
    guest.give(8);
    let mut client = guest.client();
    client.write_all(b"connect 1024\nfirst words").unwrap();
    let request = guest.packet();
    assert_eq!((request.operation, request.ports.guest), (Operation::Request, 1024));
    assert_eq!((request.ports.host, request.buffer), (FIRST_HOST_PORT, WINDOW));
    guest.say(request.ports, Operation::Response);
    // What followed the line is the guest's, and comes only once it has answered.
    let (header, words) = guest.data();
    assert_eq!((header.ports, &words[..]), (request.ports, &b"first words"[..]));
    let mut line = [0; 14];
    client.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK 1073741824\n");
    guest.send(request.ports, b"an answer");
    let mut answer = [0; 9];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"an answer");
}

#[test]
fn a_client_of_a_port_where_nobody_listens_is_closed_without_a_word() {
    let mut guest = Guest::start();
    guest.give(2);
    let mut client = guest.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let ports = guest.packet().ports;
    guest.say(ports, Operation::Reset);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_port_of_the_host_is_connected_by_the_broker() {
    let mut guest = Guest::start();
    guest.give(4);
    let ports = Ports { host: 1025, guest: 77 };
    guest.say(ports, Operation::Request);
    let (wish, mut server) = guest.broker_connects();
    assert_eq!(wish.port, 1025);
    assert_eq!((guest.packet().operation, guest.connections()), (Operation::Response, 1));
    guest.send(ports, b"hello");
    let mut seen = [0; 5];
    server.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    server.write_all(b"world").unwrap();
    assert_eq!(guest.data().1, b"world");
}

#[test]
fn a_port_where_the_broker_finds_nobody_is_refused() {
    let mut guest = Guest::start();
    guest.give(4);
    let ports = Ports { host: 1025, guest: 77 };
    guest.say(ports, Operation::Request);
    guest.broker_refuses();
    assert_eq!(guest.packet(), Header::bare(ports, Operation::Reset));
    assert_eq!(guest.connections(), 0);
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped_with_its_stream() {
    let mut guest = Guest::start();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    guest.answer(Wish { tag: 12345, port: 1 }, ours);
    guest.settle();
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_packet_of_no_connection_is_answered_by_a_reset_and_a_reset_by_nothing() {
    let mut guest = Guest::start();
    guest.give(8);
    let ports = Ports { host: 5, guest: 6 };
    for operation in [Operation::Response, Operation::Shutdown, Operation::CreditRequest] {
        guest.say(ports, operation);
        assert_eq!(guest.packet(), Header::bare(ports, Operation::Reset), "{operation:?}");
    }
    guest.say(ports, Operation::Reset);
    assert!(guest.is_quiet());
}

#[test]
fn allegations_end_their_connection_and_no_other() {
    let (mut guest, ports, mut client) = Guest::connected();
    let (mut bystander, others) = guest.connect_client();
    guest.give(8);
    let header = Header { length: 100, ..Header::bare(ports, Operation::Data) };
    guest.say_raw(CID + 1, header, &[0; 100]);
    assert!(guest.is_quiet(), "another guest's packet is nobody's");
    guest.say_raw(CID, header, &[0; 99]);
    assert_eq!(guest.packet(), Header::bare(ports, Operation::Reset));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    guest.send(others, b"x");
    bystander.read_exact(&mut [0]).unwrap();
    assert_eq!(guest.connections(), 1);
}
