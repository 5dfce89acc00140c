//! The socket device's work: a connection from each side, bytes both ways, an end.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;

use granule_devices::vsock::{Answer, Wish};
use granule_jail::DeviceKind;

use super::bench::{BUFFERS, Bench, Setup, run as run_bench};
use super::process::{self, FIRST, Failed};
use super::work::{listener, setup};

const CID: u64 = 7;
/// Where a packet to the guest is put, and one of the guest.
const TO_GUEST: u64 = BUFFERS;
const FROM_GUEST: u64 = BUFFERS + 0x2000;
const HEADER: u32 = 44;
/// Operations (virtio 1.2, §5.10.6).
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;

pub fn run(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let (listener, address) = listener();
    listener.set_nonblocking(true).unwrap();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    client.write_all(b"CONNECT 1024\n").unwrap();
    let (broker, theirs) = process::pair();
    let words = format!("--cid {CID} --listener-fd {} --broker-fd {}", FIRST + 2, FIRST + 3);
    let setup = Setup { passed: vec![OwnedFd::from(listener), theirs], ..setup(&words, 3) };
    run_bench(DeviceKind::Vsock, setup, dropped, |bench| {
        let (operation, host) = hear(bench)?;
        expect(operation == REQUEST)?;
        say(bench, RESPONSE, (1024, host), b"")?;
        bench.until_line(&mut client)?;
        client.write_all(b"ping").map_err(|_| Failed)?;
        while hear(bench)?.0 != DATA {}
        say(bench, DATA, (1024, host), b"pong")?;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).map_err(|_| Failed)?;
        say(bench, SHUTDOWN, (1024, host), b"")?;
        expect(matches!(client.read(&mut [0]), Ok(0)))?;
        ask_broker(bench, &broker)
    })
}

/// The guest connects, and whoever started the device has a stream for it.
fn ask_broker(bench: &mut Bench, broker: &OwnedFd) -> Result<(), Failed> {
    say(bench, REQUEST, (2048, 70), b"")?;
    let wish = bench.until(|| Wish::receive(broker.as_fd()).ok().flatten())?;
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    Answer { wish, stream: Ok(theirs.into()) }.send(broker.as_fd()).map_err(|_| Failed)?;
    // The end of the first connection may still be told.
    while hear(bench)?.0 != RESPONSE {}
    drop(ours);
    Ok(())
}

fn expect(held: bool) -> Result<(), Failed> {
    if held { Ok(()) } else { Err(Failed) }
}

impl Bench {
    /// Waits until the device has told the client that the guest has answered.
    fn until_line(&mut self, client: &mut UnixStream) -> Result<(), Failed> {
        let mut byte = [0];
        while byte != *b"\n" {
            client.read_exact(&mut byte).map_err(|_| Failed)?;
        }
        Ok(())
    }
}

/// The next packet to the guest: its operation, and the host's port.
fn hear(bench: &mut Bench) -> Result<(u16, u32), Failed> {
    // Several buffers, as Linux has them for a header and what follows.
    bench.ask(0, &[(TO_GUEST, HEADER, true), (TO_GUEST + 0x1000, 4096, true)])?;
    let (host, operation) = (bench.read(TO_GUEST + 16), bench.read(TO_GUEST + 30));
    Ok((u16::from_le_bytes(operation), u32::from_le_bytes(host)))
}

/// A packet of the guest.
fn say(bench: &mut Bench, operation: u16, ports: (u32, u32), payload: &[u8]) -> Result<(), Failed> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut header = [CID.to_le_bytes(), 2u64.to_le_bytes()].concat();
    for word in [ports.0, ports.1, length, u32::from(operation) << 16 | 1, 3, 1 << 16, 0] {
        header.extend(word.to_le_bytes());
    }
    bench.put(&[&header, payload].concat(), FROM_GUEST);
    bench.ask(1, &[(FROM_GUEST, HEADER + length, false)])
}
