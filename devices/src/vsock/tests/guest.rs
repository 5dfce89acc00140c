//! A guest's driver that says what it is told to say, and the host around it.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::super::packet::{Header, Operation, Ports};
use super::super::spec::{EVENTS, HEADER_SIZE, HOST_CID, RX, TX, WINDOW};
use super::super::{Answer, GuestCid, HostSide, VsockDevice, Wish};
use crate::contract::bench::Bench;

/// The guest's context id.
pub(super) const CID: u64 = 3;

/// A listener at an address of its own, and the broker's end.
pub(super) fn host_side() -> (HostSide, SocketAddr, OwnedFd) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("granule-vsock-test-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (device, broker) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (HostSide { listener, broker: Some(device) }, address, broker)
}

/// A guest and its host.
pub(super) struct Guest {
    pub(super) bench: Bench<VsockDevice>,
    address: SocketAddr,
    broker: OwnedFd,
    heard: VecDeque<(Header, Vec<u8>)>,
    /// What it says of its own room.
    pub(super) room: u32,
    /// What it says it has passed on.
    pub(super) forwarded: u32,
    sent: u32,
    host_forwarded: u32,
}

impl Guest {
    pub(super) fn start() -> Self {
        let (host, address, broker) = host_side();
        let bench = Bench::new(VsockDevice::new(GuestCid::try_from(CID).unwrap(), host));
        let heard = VecDeque::new();
        let mut guest =
            Self { bench, address, broker, heard, room: WINDOW, forwarded: 0, sent: 0, host_forwarded: 0 };
        for queue in [RX, TX, EVENTS] {
            guest.bench.serve(queue).unwrap();
        }
        guest
    }

    /// A guest with one connection, made by a client.
    pub(super) fn connected() -> (Self, Ports, UnixStream) {
        let mut guest = Self::start();
        let (client, ports) = guest.connect_client();
        (guest, ports, client)
    }

    pub(super) fn connect_client(&mut self) -> (UnixStream, Ports) {
        self.give(1);
        let mut client = self.client();
        std::io::Write::write_all(&mut client, b"CONNECT 70\n").unwrap();
        let ports = self.packet().ports;
        self.say(ports, Operation::Response);
        let mut line = [0; 14];
        client.read_exact(&mut line).unwrap();
        (client, ports)
    }

    /// A process takes the device up anew.
    pub(super) fn succeed(&mut self) {
        let (host, address, broker) = host_side();
        self.bench.replace(VsockDevice::new(GuestCid::try_from(CID).unwrap(), host));
        (self.address, self.broker) = (address, broker);
        for queue in [RX, TX, EVENTS] {
            self.bench.serve(queue).unwrap();
        }
    }

    pub(super) fn client(&mut self) -> UnixStream {
        self.settle();
        let client = UnixStream::connect_addr(&self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    /// Gives buffers for packets.
    pub(super) fn give(&mut self, count: u16) {
        self.bench.give(RX, count);
    }

    pub(super) fn give_events(&mut self, count: u16) {
        self.bench.give(EVENTS, count);
    }

    pub(super) fn settle(&mut self) {
        self.bench.settle();
    }

    pub(super) fn connections(&self) -> usize {
        self.bench.device.table.len()
    }

    /// Takes in what the device has put into buffers.
    pub(super) fn hear(&mut self) {
        self.settle();
        for bytes in self.bench.taken(RX) {
            let (header, payload) = bytes.split_at(HEADER_SIZE);
            let mut header: [u8; HEADER_SIZE] = header.try_into().unwrap();
            // Turned around, so that the door for guests' packets reads it.
            header.copy_within(8..16, 0);
            assert_eq!(header[..8], CID.to_le_bytes());
            header[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
            let mut header = Header::checked(&header, CID, payload.len()).unwrap();
            header.ports = Ports { host: header.ports.guest, guest: header.ports.host };
            assert_eq!(payload.len(), header.length as usize);
            self.host_forwarded = header.forwarded;
            self.heard.push_back((header, payload.to_vec()));
        }
    }

    /// The next packet, whatever it is; there must be one.
    pub(super) fn packet(&mut self) -> Header {
        self.hear();
        self.heard.pop_front().expect("the device said nothing").0
    }

    /// All packets.
    pub(super) fn packets(&mut self) -> Vec<Header> {
        self.hear();
        self.heard.drain(..).map(|(header, _)| header).collect()
    }

    /// The next packets with data, as one.
    pub(super) fn data(&mut self) -> (Header, Vec<u8>) {
        self.hear();
        let mut all: Option<(Header, Vec<u8>)> = None;
        while let Some((header, bytes)) =
            self.heard.pop_front_if(|(header, _)| header.operation == Operation::Data)
        {
            all.get_or_insert_with(|| (header, Vec::new())).1.extend(bytes);
        }
        all.expect("there is data")
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        self.hear();
        self.heard.is_empty()
    }

    pub(super) fn say(&mut self, ports: Ports, operation: Operation) {
        self.say_flags(ports, operation, 0);
    }

    pub(super) fn say_flags(&mut self, ports: Ports, operation: Operation, flags: u32) {
        self.say_raw(CID, Header { flags, ..Header::bare(ports, operation) }, &[]);
    }

    /// Sends data, as credit allows.
    pub(super) fn send(&mut self, ports: Ports, bytes: &[u8]) {
        assert!(self.credit(ports) >= bytes.len() as u32);
        self.send_unasked(ports, bytes);
    }

    pub(super) fn send_unasked(&mut self, ports: Ports, bytes: &[u8]) {
        self.sent = self.sent.wrapping_add(bytes.len() as u32);
        let header = Header { length: bytes.len() as u32, ..Header::bare(ports, Operation::Data) };
        self.say_raw(CID, header, bytes);
    }

    /// How much it may send.
    pub(super) fn credit(&mut self, _ports: Ports) -> u32 {
        WINDOW - self.sent.wrapping_sub(self.host_forwarded)
    }

    /// Sends a packet as it stands.
    pub(super) fn say_raw(&mut self, cid: u64, header: Header, payload: &[u8]) {
        let header = Header { buffer: self.room, forwarded: self.forwarded, ..header };
        let turned = Ports { host: header.ports.guest, guest: header.ports.host };
        let mut bytes = Header { ports: turned, ..header }.to_guest(HOST_CID).to_vec();
        bytes[..8].copy_from_slice(&cid.to_le_bytes());
        bytes.extend(payload);
        self.bench.send(TX, &bytes);
        self.settle();
    }

    /// The broker connects as it was asked to; returns the wish and the server's end.
    pub(super) fn broker_connects(&mut self) -> (Wish, UnixStream) {
        let wish = Wish::receive(self.broker.as_fd()).unwrap().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.answer(wish, ours);
        self.settle();
        (wish, theirs)
    }

    pub(super) fn answer(&mut self, wish: Wish, stream: UnixStream) {
        stream.set_nonblocking(true).unwrap();
        Answer { wish, stream: Ok(stream.into()) }.send(self.broker.as_fd()).unwrap();
    }

    pub(super) fn broker_refuses(&mut self) {
        let wish = Wish::receive(self.broker.as_fd()).unwrap().unwrap();
        let stream = Err(std::io::Error::from_raw_os_error(libc::ENOENT));
        Answer { wish, stream }.send(self.broker.as_fd()).unwrap();
        self.settle();
    }

    /// All times are up.
    pub(super) fn expire(&mut self) {
        self.bench.device.expire(Instant::now() + Duration::from_secs(3600));
        self.settle();
    }
}
