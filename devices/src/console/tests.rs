use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use super::spec::{BACKLOG, RECEIVE, TRANSMIT};
use super::*;
use crate::contract::bench::Bench;
use crate::contract::device_contract;
use crate::serve::{Device, Wake};

device_contract!(
    ConsoleDevice::new(
        Ends::Files { input: Some(File::open("/dev/zero").unwrap()), output: None },
        Window::default()
    ),
    |driver: &mut Driver| {
        driver.write([7u8; 32], BUFFERS);
        driver.describe(0, (BUFFERS, 64, WRITE, 0));
    },
    |driver: &Driver, length: u32| length > 0 && driver.read::<[u8; 1]>(BUFFERS) == [0]
);

/// A console on one end of a pair of sockets, neither of which waits.
fn on_a_stream() -> (UnixStream, Bench<ConsoleDevice>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let file = |stream: UnixStream| Some(File::from(OwnedFd::from(stream)));
    let ends = Ends::Files { input: file(theirs.try_clone().unwrap()), output: file(theirs) };
    (ours, Bench::new(ConsoleDevice::new(ends, Window::default())))
}

/// A console on a socket, and where to connect.
fn on_a_socket(name: &str) -> (SocketAddr, Bench<ConsoleDevice>) {
    let name = format!("granule-console-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    (address, Bench::new(ConsoleDevice::new(Ends::Socket(listener), Window::default())))
}

fn heard(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    // The end is that there is no more for now.
    let _ = stream.read_to_end(&mut all);
    all
}

#[test]
fn text_goes_both_ways_in_order() {
    let (mut ours, mut bench) = on_a_stream();
    bench.send(TRANSMIT, b"login: ");
    bench.send(TRANSMIT, b"and a line that is longer than the first of the two buffers\n");
    assert_eq!(heard(&mut ours), b"login: and a line that is longer than the first of the two buffers\n");
    ours.write_all(b"me\n").unwrap();
    bench.settle();
    assert!(bench.taken(RECEIVE).is_empty(), "the guest has given no room");
    ours.write_all(b"secret\n").unwrap();
    bench.give(RECEIVE, 2);
    bench.settle();
    assert_eq!(bench.taken(RECEIVE).concat(), b"me\nsecret\n");
}

#[test]
fn a_reader_that_does_not_read_costs_output_and_neither_time_nor_memory() {
    let (mut ours, mut bench) = on_a_stream();
    for _ in 0..3000 {
        bench.send(TRANSMIT, &[b'x'; 4096]);
        bench.taken(TRANSMIT);
    }
    let mut got = 0;
    loop {
        let chunk = heard(&mut ours).len();
        bench.settle();
        if chunk == 0 {
            break;
        }
        got += chunk;
    }
    assert!((BACKLOG..3000 * 4096).contains(&got), "{got}");
    bench.send(TRANSMIT, b"abreast again");
    assert_eq!(heard(&mut ours), b"abreast again");
}

#[test]
fn a_writer_that_does_not_stop_fills_no_memory() {
    let (ours, mut bench) = on_a_stream();
    let mut ours = ours;
    let mut accepted = 0;
    for _ in 0..1000 {
        accepted += ours.write(&[b'y'; 4096]).unwrap_or(0);
        bench.settle();
    }
    assert!(accepted < 1 << 20, "{accepted} bytes were taken that no guest wanted");
    let mut taken = 0;
    while taken < accepted {
        bench.give(RECEIVE, 16);
        bench.settle();
        let got: usize = bench.taken(RECEIVE).iter().map(Vec::len).sum();
        assert!(got > 0, "{taken} of {accepted} bytes");
        taken += got;
    }
}

#[test]
fn output_without_a_client_is_dropped_and_the_last_client_has_the_console() {
    let (address, mut bench) = on_a_socket("clients");
    bench.send(TRANSMIT, b"nobody hears this");
    let connect = || {
        let stream = UnixStream::connect_addr(&address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let mut first = connect();
    bench.settle();
    bench.send(TRANSMIT, b"one");
    assert_eq!(heard(&mut first), b"one");
    let mut second = connect();
    bench.settle();
    bench.send(TRANSMIT, b"two");
    assert_eq!((heard(&mut first), heard(&mut second)), (vec![], b"two".to_vec()));
    drop(second);
    bench.settle();
    bench.send(TRANSMIT, b"nobody again");
    let mut third = connect();
    bench.settle();
    third.write_all(b"hello").unwrap();
    bench.give(RECEIVE, 1);
    bench.settle();
    assert_eq!(bench.taken(RECEIVE), [b"hello"]);
    assert!(heard(&mut third).is_empty());
}

#[test]
fn a_new_size_is_in_the_configuration() {
    let window = Window { columns: 80, rows: 25 };
    let mut device = ConsoleDevice::new(Ends::Null, window);
    assert_eq!(device.config(), [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let larger = Window { columns: 300, rows: 2 };
    device.order(&larger.order(), None, &mut Wake::default()).unwrap();
    assert_eq!(device.config()[..4], [44, 1, 2, 0]);
    assert!(device.order(b"80x25", None, &mut Wake::default()).is_err());
}
