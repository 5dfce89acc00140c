use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use std::os::fd::OwnedFd;

use super::spec::{
    CTRL_ERROR, CTRL_MQ_PAIRS, CTRL_OFFLOADS, CTRL_OK, F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_HOST_TSO4,
    F_MAC, F_MQ, F_MRG_RXBUF, F_MTU,
};
use super::*;
use crate::contract::bench::{BUFFER, Bench};
use crate::contract::device_contract;
use crate::rate::{BucketSettings, LimiterSettings};
use crate::serve::Device;
use crate::virtio::spec::F_VERSION_1;

const ALL: u32 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;

fn settings() -> Settings {
    let offloads = Offloads { checksum: true, segmentation: true, fragmentation: true, taps: ALL };
    let limits = LimiterSettings::default();
    Settings { mac: [2, 0, 0, 0, 0, 1], mtu: None, queue_size: 256, offloads, limits }
}

/// A tap that always has a packet of zeros, as long as an ordinary frame.
fn endless() -> Taps {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (theirs, ours) = pair.unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    // Until the device goes.
    std::thread::spawn(move || while send(&ours, &[0; 1530], SendFlags::NOSIGNAL).is_ok() {});
    Taps(vec![theirs])
}

device_contract!(
    NetDevice::new(settings(), endless()),
    |driver: &mut Driver| {
        driver.write([0xffu8; 32], BUFFERS);
        // A driver that merges no buffers expects each to hold a packet.
        driver.describe(0, (BUFFERS, 1530, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 1530 && driver.read::<u16>(BUFFERS + 10) == 1
);

/// Taps whose other ends are ours: each message is a packet.
fn taps(pairs: usize) -> (Taps, Vec<OwnedFd>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = |_| socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (theirs, ours) = (0..pairs).map(pair).unzip();
    (Taps(theirs), ours)
}

struct Host {
    bench: Bench<NetDevice>,
    taps: Vec<OwnedFd>,
}

fn host(pairs: usize, settings: Settings, accepted: u64) -> Host {
    let (theirs, taps) = taps(pairs);
    let mut bench = Bench::new(NetDevice::new(settings, theirs));
    bench.device.accept_features(F_VERSION_1 | accepted);
    Host { bench, taps }
}

/// A packet of so many bytes behind its header.
fn packet(fill: u8, length: usize) -> Vec<u8> {
    [vec![0; HEADER_SIZE], vec![fill; length]].concat()
}

impl Host {
    fn arrive(&mut self, tap: usize, packet: &[u8]) {
        rustix::io::write(&self.taps[tap], packet).unwrap();
        self.bench.settle();
    }

    fn left(&self, tap: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 70_000];
        let count = rustix::io::read(&self.taps[tap], &mut bytes[..]).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }

    fn command(&mut self, queue: u16, command: &[u8]) -> u8 {
        let answer = self.bench.ask(queue, command, 1);
        self.bench.serve(queue).unwrap();
        self.bench.read_answer(answer)
    }
}

#[test]
fn a_packet_of_the_host_arrives_in_one_buffer() {
    let mut host = host(1, settings(), F_MRG_RXBUF);
    host.bench.give(0, 2);
    host.arrive(0, &packet(7, 1000));
    let got = host.bench.taken(0);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].len(), &got[0][10..12], &got[0][12..]), (1012, &[1, 0][..], &[7; 1000][..]));
}

#[test]
fn a_long_packet_fills_several_buffers_whether_there_are_enough_or_come_later() {
    for first in [16, 1, 2] {
        let mut host = host(1, settings(), F_MRG_RXBUF);
        host.bench.give(0, first);
        host.arrive(0, &packet(9, 3 * BUFFER as usize));
        if first < 4 {
            assert!(host.bench.taken(0).is_empty(), "a packet is given whole or not at all");
            host.bench.give(0, 4 - first);
        }
        let got = host.bench.taken(0);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [4096, 4096, 4096, 12], "{first} at first");
        assert_eq!(got[0][10..12], [4, 0]);
        assert_eq!(got.concat()[12..], packet(9, 3 * 4096)[12..]);
    }
}

#[test]
fn a_packet_too_long_for_a_guest_that_merges_nothing_is_lost_and_the_next_one_is_not() {
    let mut host = host(1, settings(), F_GUEST_CSUM | F_GUEST_TSO4);
    host.bench.give(0, 2);
    host.arrive(0, &packet(1, 5000));
    host.arrive(0, &packet(2, 100));
    let lengths: Vec<_> = host.bench.taken(0).iter().map(Vec::len).collect();
    assert_eq!(lengths, [0, 112]);
}

#[test]
fn packets_stay_in_the_tap_while_the_guest_has_no_buffers() {
    let mut host = host(1, settings(), F_MRG_RXBUF);
    for length in 1..=20 {
        host.arrive(0, &packet(3, length));
    }
    host.bench.give(0, 16);
    host.bench.settle();
    let mut lengths: Vec<_> = host.bench.taken(0).iter().map(Vec::len).collect();
    host.bench.give(0, 4);
    host.bench.settle();
    lengths.extend(host.bench.taken(0).iter().map(Vec::len));
    assert_eq!(lengths, (13..=32).collect::<Vec<_>>());
}

#[test]
fn what_the_guest_sends_is_one_packet_of_the_tap() {
    let mut host = host(1, settings(), 0);
    host.bench.send(1, &packet(5, 1400));
    assert_eq!(host.left(0).unwrap(), packet(5, 1400));
    host.bench.send(1, &[0; 5]);
    assert!(host.left(0).is_none(), "shorter than its header");
}

#[test]
fn a_full_tap_holds_packets_back_and_loses_none() {
    let mut host = host(1, settings(), 0);
    let mut sent = 0;
    while host.bench.used(1) == sent {
        host.bench.send(1, &packet(sent as u8, 3000));
        sent += 1;
    }
    let mut seen = 0;
    while seen < sent {
        let got = host.left(0).expect("a packet waits");
        assert_eq!(got[12], seen as u8);
        seen += 1;
        host.bench.settle();
    }
}

#[test]
fn every_tap_is_read_for_the_pairs_that_are_in_use() {
    let mut host = host(4, settings(), F_MQ | F_MRG_RXBUF);
    for (pairs, queues) in [(1u16, [0, 0, 0, 0]), (2, [0, 2, 0, 2]), (4, [0, 2, 4, 6])] {
        let command = [&CTRL_MQ_PAIRS[..], &pairs.to_le_bytes()].concat();
        assert_eq!(host.command(8, &command), CTRL_OK);
        for (tap, queue) in queues.into_iter().enumerate() {
            host.bench.give(queue, 1);
            host.arrive(tap, &packet(tap as u8, 60));
            let got = host.bench.taken(queue);
            assert_eq!(got.len(), 1, "tap {tap} of {pairs} pairs");
            assert_eq!(got[0][12], tap as u8);
        }
    }
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let mut host = host(2, settings(), F_MQ | F_GUEST_CSUM);
    let offloads = |bits: u64| [&CTRL_OFFLOADS[..], &bits.to_le_bytes()].concat();
    let commands: [&[u8]; 8] =
        [&[], &[4], &[4, 0, 0, 0], &[4, 0, 3, 0], &[4, 0, 1], &[0, 0, 1], &offloads(F_GUEST_TSO4), &[9; 100]];
    for command in commands {
        assert_eq!(host.command(4, command), CTRL_ERROR, "{command:?}");
    }
}

#[test]
fn offloads_are_offered_as_configured_and_as_the_tap_has_them() {
    let features = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        NetDevice::new(settings, endless()).features()
    };
    let all = features(|_| ());
    assert_eq!(all & (F_CSUM | F_HOST_TSO4 | F_GUEST_TSO4), F_CSUM | F_HOST_TSO4 | F_GUEST_TSO4);
    assert_eq!(all & (F_MTU | F_MQ), 0);
    assert_eq!(features(|s| s.offloads.segmentation = false) & (F_CSUM | F_HOST_TSO4 | F_GUEST_TSO4), F_CSUM);
    assert_eq!(features(|s| s.offloads.checksum = false) & (F_CSUM | F_HOST_TSO4 | F_GUEST_TSO4), 0);
    assert_eq!(features(|s| s.offloads.taps = 0) & (F_CSUM | F_GUEST_CSUM), 0);
    assert_eq!(features(|s| s.mtu = Some(9000)) & F_MTU, F_MTU);
    assert_eq!(all & F_MAC, F_MAC);
}

#[test]
fn the_configuration_names_address_pairs_and_mtu() {
    let device = NetDevice::new(Settings { mtu: Some(9000), ..settings() }, taps(3).0);
    assert_eq!(device.config(), [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0x28, 0x23]);
    assert_eq!(device.config().len(), CONFIG_SIZE);
    assert_eq!(device.queue_sizes().len(), 7);
}

#[test]
fn a_limit_delays_packets_either_way_and_loses_none() {
    let bucket = BucketSettings { size: 2, one_time_burst: 0, refill_time: Duration::from_millis(60) };
    let limits = LimiterSettings { bandwidth: None, operations: Some(bucket) };
    let mut host = host(1, Settings { limits, ..settings() }, F_MRG_RXBUF);
    host.bench.give(0, 8);
    for _ in 0..4 {
        host.arrive(0, &packet(1, 100));
        host.bench.send(1, &packet(2, 100));
    }
    assert_eq!((host.bench.taken(0).len(), host.bench.used(1)), (2, 2));
    let (mut received, start) = (2, std::time::Instant::now());
    while received < 4 || host.bench.used(1) < 4 {
        assert!(start.elapsed() < Duration::from_secs(20), "{received} and {}", host.bench.used(1));
        host.bench.settle();
        received += host.bench.taken(0).len();
    }
}

#[test]
fn a_successor_remembers_pairs_and_offloads() {
    let mut first = host(4, settings(), F_MQ | F_GUEST_CSUM).bench.device;
    assert!(first.restore(b"garbled").is_err());
    assert!(first.restore(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    let mut state = first.save();
    state[0] = 3;
    first.restore(&state).unwrap();
    first.accept_features(F_VERSION_1 | F_MQ);
    assert_eq!(first.save(), state);
}
