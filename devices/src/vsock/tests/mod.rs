//! The device between a guest and a host that are both made by hand.

mod guest;

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

#[test]
fn a_guest_that_overdraws_its_credit_is_reset() {
    let (mut guest, ports, client) = Guest::connected();
    guest.give(16);
    let block = [7; 2048];
    let mut sent = 0;
    // The client takes nothing: what its socket does not hold, the window does.
    while guest.connections() == 1 {
        assert!(sent < 4 * WINDOW as usize, "{sent} bytes were taken of a guest that never waits");
        guest.send_unasked(ports, &block);
        sent += block.len();
    }
    assert!(sent > WINDOW as usize);
    assert_eq!(guest.packets().last().unwrap().operation, Operation::Reset);
    drop(client);
}

#[test]
fn a_slow_client_gets_every_byte_in_order() {
    let (mut guest, ports, mut client) = Guest::connected();
    client.set_nonblocking(true).unwrap();
    guest.give(16);
    let total = 3 * WINDOW as usize;
    let (mut sent, mut got) = (0, 0);
    while got < total {
        while sent < total && guest.credit(ports) >= 2048 {
            let block: Vec<u8> = (sent..sent + 2048).map(|at| (at % 251) as u8).collect();
            guest.send(ports, &block);
            sent += 2048;
        }
        let mut block = vec![0; 5000];
        match client.read(&mut block) {
            Ok(count) => {
                assert!(block[..count].iter().zip(got..).all(|(byte, at)| *byte == (at % 251) as u8));
                got += count;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        guest.give(1);
        guest.hear();
    }
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let (mut guest, ports, mut client) = Guest::connected();
    guest.give(8);
    guest.room = 1000;
    guest.say(ports, Operation::CreditUpdate);
    client.write_all(&[1; 3000]).unwrap();
    assert_eq!(guest.data().1.len(), 1000);
    assert!(guest.is_quiet());
    guest.forwarded = 600;
    guest.say(ports, Operation::CreditUpdate);
    assert_eq!(guest.data().1.len(), 600);
    guest.forwarded = 1600;
    guest.room = 50_000;
    guest.say(ports, Operation::CreditUpdate);
    assert_eq!(guest.data().1.len(), 1400);
}

#[test]
fn a_guest_that_asks_for_credit_is_told() {
    let (mut guest, ports, mut client) = Guest::connected();
    guest.give(4);
    guest.send(ports, b"12345");
    guest.say(ports, Operation::CreditRequest);
    let update = guest.packet();
    assert_eq!((update.operation, update.forwarded, update.buffer), (Operation::CreditUpdate, 5, WINDOW));
    client.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn one_direction_may_end_before_the_other() {
    let (mut guest, ports, mut client) = Guest::connected();
    guest.give(8);
    client.write_all(b"last").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.data().1, b"last");
    let shut = guest.packet();
    assert_eq!((shut.operation, shut.flags), (Operation::Shutdown, SHUT_SEND));
    guest.send(ports, b"still here");
    guest.say_flags(ports, Operation::Shutdown, SHUT_SEND);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "still here");
    // The client's end is closed both ways now.
    let shut = guest.packet();
    assert_eq!((shut.operation, shut.flags), (Operation::Shutdown, SHUT_BOTH));
    guest.say(ports, Operation::Reset);
    assert_eq!(guest.connections(), 0);
    assert!(guest.is_quiet());
}

#[test]
fn a_guest_that_closes_is_answered_once_the_host_has_everything() {
    let (mut guest, ports, mut client) = Guest::connected();
    guest.give(16);
    let mut sent = 0;
    while guest.credit(ports) >= 2048 {
        guest.send(ports, &[9; 2048]);
        sent += 2048;
    }
    guest.say_flags(ports, Operation::Shutdown, SHUT_SEND | SHUT_RECEIVE);
    let told = guest.packets();
    let early = told.iter().any(|packet| packet.operation != Operation::CreditUpdate);
    assert!(!early, "bytes are held that the client has not taken: {told:?}");
    let (mut got, mut block) = (0, [0; 4096]);
    while got < sent {
        got += client.read(&mut block).unwrap();
        guest.settle();
    }
    assert_eq!(guest.packets().last().unwrap().operation, Operation::Reset);
    assert_eq!(client.read(&mut block).unwrap(), 0);
}

#[test]
fn a_guest_that_gives_up_waiting_does_not_lose_what_it_sent() {
    let (mut guest, ports, mut client) = Guest::connected();
    let mut sent = 0;
    while guest.credit(ports) >= 2048 {
        guest.send(ports, &[9; 2048]);
        sent += 2048;
    }
    guest.say_flags(ports, Operation::Shutdown, SHUT_BOTH);
    guest.say(ports, Operation::Reset);
    // The ports are free again, for another connection.
    guest.say(ports, Operation::Request);
    let (mut got, mut block) = (0, [0; 4096]);
    while let Ok(count @ 1..) = client.read(&mut block) {
        got += count;
        guest.settle();
    }
    assert_eq!(got, sent);
    assert_eq!(guest.connections(), 1);
}

#[test]
fn a_client_that_vanishes_is_told_to_the_guest_which_has_its_time_to_answer() {
    let (mut guest, _ports, client) = Guest::connected();
    guest.give(8);
    drop(client);
    let shut = guest.packet();
    assert_eq!((shut.operation, shut.flags), (Operation::Shutdown, SHUT_BOTH));
    assert!(guest.is_quiet());
    guest.expire();
    assert_eq!(guest.packet().operation, Operation::Reset);
    assert_eq!(guest.connections(), 0);
}

#[test]
fn a_client_that_vanishes_before_the_guest_answers_is_forgotten() {
    let mut guest = Guest::start();
    let mut client = guest.client();
    client.write_all(b"CONNECT 5\n").unwrap();
    guest.settle();
    assert_eq!(guest.connections(), 1);
    drop(client);
    guest.settle();
    assert_eq!(guest.connections(), 0);
    guest.give(2);
    assert!(guest.is_quiet(), "the guest has never heard of it");
}

#[test]
fn clients_that_say_nothing_are_few_and_not_for_long() {
    let mut guest = Guest::start();
    let clients: Vec<_> = (0..10 * MAX_HALF_OPEN).map(|_| guest.client()).collect();
    guest.settle();
    let open = |clients: &[UnixStream]| {
        let mut open = 0;
        for mut client in clients {
            client.set_nonblocking(true).unwrap();
            open += usize::from(client.read(&mut [0]).is_err());
        }
        open
    };
    assert_eq!(open(&clients), MAX_HALF_OPEN);
    guest.expire();
    assert_eq!(open(&clients), 0);
}

#[test]
fn a_guest_that_answers_nothing_is_not_asked_for_ever() {
    let mut guest = Guest::start();
    let clients: Vec<_> = (0..MAX_WAITING + 20)
        .map(|_| {
            let mut client = guest.client();
            client.write_all(b"CONNECT 5\n").unwrap();
            guest.settle();
            client
        })
        .collect();
    assert_eq!(guest.connections(), MAX_WAITING);
    guest.expire();
    assert_eq!(guest.connections(), 0);
    drop(clients);
}

#[test]
fn connections_are_counted() {
    // Both ends of each are in this process, with those of all the other tests.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut guest = Guest::start();
    guest.give(16);
    let mut servers = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 + 10 {
        guest.say(Ports { host: 1, guest: port }, Operation::Request);
        if port < MAX_CONNECTIONS as u32 {
            servers.push(guest.broker_connects().1);
            assert_eq!(guest.packet().operation, Operation::Response);
        } else {
            assert_eq!(guest.packet().operation, Operation::Reset);
        }
        guest.give(1);
    }
    assert_eq!(guest.connections(), MAX_CONNECTIONS);
}

#[test]
fn refusals_do_not_pile_up_while_the_guest_gives_no_buffers() {
    let mut guest = Guest::start();
    for port in 0..5000 {
        guest.say(Ports { host: 1, guest: port }, Operation::Response);
    }
    let mut refusals = 0;
    for _ in 0..100 {
        guest.give(8);
        refusals += guest.packets().len();
    }
    assert_eq!(refusals, MAX_REFUSALS);
}

#[test]
fn every_connection_gets_its_turn() {
    let (mut guest, first, mut loud) = Guest::connected();
    let (mut quiet, second) = guest.connect_client();
    guest.room = u32::MAX;
    for ports in [first, second] {
        guest.say(ports, Operation::CreditUpdate);
    }
    loud.set_nonblocking(true).unwrap();
    while loud.write(&[1; 65536]).is_ok() {}
    quiet.write_all(b"me too").unwrap();
    guest.give(4);
    guest.settle();
    let heard: Vec<_> = guest.packets().iter().map(|packet| packet.ports).collect();
    assert!(heard.contains(&second), "{heard:?}");
}

#[test]
fn a_driver_that_starts_anew_has_no_connections() {
    let (mut guest, _, mut client) = Guest::connected();
    guest.bench.renew_driver();
    guest.give(4);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.connections(), 0);
    let (_client, _) = guest.connect_client();
    assert_eq!(guest.connections(), 1);
    guest.settle();
    assert!(guest.bench.taken(EVENTS).is_empty());
}

#[test]
fn a_pause_costs_no_connection() {
    let (mut guest, ports, mut client) = Guest::connected();
    for queue in [RX, TX, EVENTS] {
        guest.bench.serve(queue).unwrap();
    }
    guest.give(4);
    client.write_all(b"x").unwrap();
    assert_eq!(guest.data().0.ports, ports);
}

#[test]
fn a_successor_tells_the_guest_that_its_connections_are_gone() {
    let (mut guest, ports, _client) = Guest::connected();
    guest.give_events(2);
    guest.settle();
    assert!(guest.bench.taken(EVENTS).is_empty());
    guest.succeed();
    guest.give(4);
    guest.settle();
    assert_eq!(guest.bench.taken(EVENTS), [vec![0; 4]]);
    guest.send_unasked(ports, b"old");
    assert_eq!(guest.packet(), Header::bare(ports, Operation::Reset));
    guest.settle();
    assert!(guest.bench.taken(EVENTS).is_empty(), "told once");
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_gone() {
    let saved = Guest::start().bench.device.save();
    let mut guest = Guest::start();
    assert!(guest.bench.device.restore(b"garbled").is_err());
    guest.bench.device.restore(&saved).unwrap();
    guest.give_events(2);
    guest.settle();
    assert_eq!(guest.bench.taken(EVENTS), [vec![0; 4]]);
    assert_eq!(guest.bench.device.save(), saved);
}

#[test]
fn an_idle_device_with_news_for_an_absent_guest_waits_for_its_buffers() {
    let mut guest = Guest::start();
    let mut client = guest.client();
    client.write_all(b"CONNECT 5\n").unwrap();
    guest.settle();
    let due = guest.bench.device.deadline().unwrap();
    assert!(due > Instant::now() + OPEN_TIMEOUT / 2, "{:?}", due - Instant::now());
    assert!(due < Instant::now() + OPEN_TIMEOUT + Duration::from_secs(1));
}
