//! How much there may be of everything, and what outlives a driver or a process.

use super::*;

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
    guest.give_events(1);
    guest.send_unasked(ports, b"old");
    assert_eq!(guest.packet(), Header::bare(ports, Operation::Reset));
    guest.settle();
    assert!(guest.bench.taken(EVENTS).is_empty(), "told once");
}

/// A guest that was restored, with buffers for all queues, and has not looked at its events.
fn restored() -> Guest {
    let saved = Guest::start().bench.device.save();
    let mut guest = Guest::start();
    assert!(guest.bench.device.restore(b"garbled").is_err());
    guest.bench.device.restore(&saved).unwrap();
    assert_eq!(guest.bench.device.save(), saved);
    guest.give(4);
    guest.give_events(2);
    guest.settle();
    assert_eq!(guest.bench.taken(EVENTS), [vec![0; 4]]);
    guest
}

#[test]
fn nothing_is_connected_before_a_restored_guest_has_heard_that_its_connections_are_gone() {
    let mut guest = restored();
    let mut client = guest.client();
    client.write_all(b"CONNECT 70\n").unwrap();
    let ours = Ports { host: 7, guest: 900 };
    guest.say(ours, Operation::Request);
    assert!(guest.is_quiet());
    guest.give_events(1);
    std::thread::sleep(Duration::from_millis(5));
    let asked = guest.packet();
    assert_eq!((asked.operation, asked.ports.guest), (Operation::Request, 70));
    let (wish, _server) = guest.broker_connects();
    assert_eq!(wish.port, 7);
    assert_eq!(guest.packet(), Header::bare(ours, Operation::Response));
    guest.settle();
    assert!(guest.bench.taken(EVENTS).is_empty(), "told once");
}

#[test]
fn a_guest_that_never_gives_a_buffer_for_events_again_is_connected_after_a_while() {
    let mut guest = restored();
    let ours = Ports { host: 7, guest: 900 };
    guest.say(ours, Operation::Request);
    guest.expire();
    let (_, _server) = guest.broker_connects();
    assert_eq!(guest.packet(), Header::bare(ours, Operation::Response));
    assert!(guest.bench.device.deadline().is_none());
}

#[test]
fn a_guest_that_has_no_buffer_for_events_is_connected_after_a_while_and_told_when_it_has() {
    let mut guest = Guest::start();
    guest.bench.device.restore(&Guest::start().bench.device.save()).unwrap();
    guest.give(4);
    let ours = Ports { host: 7, guest: 900 };
    guest.say(ours, Operation::Request);
    guest.expire();
    let (_, _server) = guest.broker_connects();
    assert_eq!(guest.packet(), Header::bare(ours, Operation::Response));
    guest.give_events(1);
    guest.settle();
    assert_eq!(guest.bench.taken(EVENTS), [vec![0; 4]]);
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
