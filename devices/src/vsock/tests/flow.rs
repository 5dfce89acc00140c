//! Credit, and how connections end.

use super::*;

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
fn what_flows_fills_many_buffers_in_order() {
    let (mut guest, ports, mut client) = Guest::connected();
    let bytes: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    client.write_all(&bytes).unwrap();
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        guest.give(16);
        let (header, data) = guest.data();
        assert_eq!(header.ports, ports);
        assert!(!data.is_empty());
        got.extend(data);
    }
    assert!(got == bytes);
    guest.give(16);
    client.write_all(b"more").unwrap();
    assert_eq!(guest.data().1, b"more");
    assert!(guest.is_quiet());
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
