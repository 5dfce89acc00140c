//! The device itself: queues on one side, listener, broker and streams on the other.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tracing::{debug, warn};
use virtio_queue::QueueT;

use super::batch::Batch;
use super::broker::{Answer, Wish};
use super::lobby::Lobby;
use super::packet::{BadHeader, Header, Operation};
use super::reset::Reset;
use super::spec::{
    EVENT_SIZE, EVENT_TRANSPORT_RESET, EVENTS, HEADER_SIZE, MAX_ACCEPTS, MAX_BATCH, MAX_PACKETS, QUEUE_SIZES,
    RX, TX,
};
use super::state::{GuestCid, HostSide};
use super::table::Table;
use crate::serve::{
    Chain, Device, Intake, Memory, Progress, Ring, RingFault, Round, Vectors, Wake, Watch, serve_chains,
    serve_rounds, serve_while,
};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

const LISTENER: u64 = 0;
const BROKER: u64 = 1;
const FIRST_TOKEN: u64 = 2;
/// All that is saved: that there was such a device.
const SAVED: u8 = 1;
/// How long no client is accepted after the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A virtio socket device.
pub struct VsockDevice {
    cid: u64,
    config: [u8; 8],
    host: HostSide,
    /// What tags of wishes begin with: no successor of this process may take our answers for its own.
    first_tag: u64,
    next_token: u64,
    lobby: Lobby,
    pub(super) table: Table,
    accept_from: Option<Instant>,
    /// Where each queue was left, once it was served.
    left: [Option<u16>; QUEUE_SIZES.len()],
    /// Packets wait for buffers of the guest: none is known to be there.
    pub(super) starved: bool,
    /// What of its connections the guest has yet to hear.
    reset: Reset,
    /// Packets rest until it has.
    rests: bool,
    /// The event waits for a buffer.
    event_starved: bool,
}

impl VsockDevice {
    /// A device for the guest with this context id.
    pub fn new(cid: GuestCid, host: HostSide) -> Self {
        let cid = u64::from(cid);
        let mut tag = [0; 8];
        // Eight bytes come whole or not at all; the kernel's generator has been seeded long since.
        let _ = rustix::rand::getrandom(&mut tag, rustix::rand::GetRandomFlags::empty());
        Self {
            cid,
            config: cid.to_le_bytes(),
            host,
            first_tag: u64::from_le_bytes(tag),
            next_token: FIRST_TOKEN,
            lobby: Lobby::default(),
            table: Table::new(),
            accept_from: None,
            left: [None; QUEUE_SIZES.len()],
            starved: true,
            reset: Reset::default(),
            rests: false,
            event_starved: true,
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Looks where the guest goes on with `queue`: another place than where it was left means another driver, and a
    /// place in the middle at the first look, that a process before this one has served the guest.
    fn look_at_position(&mut self, queue: usize, ring: &Ring) {
        let now = ring.get_queue().next_avail();
        match self.left[queue].replace(now) {
            None if now != 0 && !self.reset.holds() => self.reset.owe(),
            None => {}
            Some(left) if left != now => {
                debug!(queue, "the guest has begun anew; its connections are gone");
                self.table.clear();
                self.reset.clear();
                self.left = [Some(0); QUEUE_SIZES.len()];
                self.left[queue] = Some(now);
            }
            Some(_) => {}
        }
    }

    fn serve_receive(&mut self, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let served = if self.table.has_news() { self.give(ring, memory) } else { Ok(Progress::Idle) };
        // News that are left wait for the guest to give buffers, which it tells by a kick.
        self.starved = self.table.has_news() && !matches!(served, Ok(Progress::More));
        served
    }

    /// Gives the guest what there is for it, as far as it has room, several chains at a time.
    fn give(&mut self, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let mut intake = Intake::new(ring, memory)?;
        let progress = serve_rounds(ring, MAX_PACKETS, |ring, left| {
            let mut served = 0;
            while served < left && self.table.has_news() {
                let most = if self.table.flows() { MAX_BATCH } else { 1 };
                let batch = Batch::take(ring, &mut intake, most)?;
                served += batch.refused;
                if batch.is_empty() {
                    break;
                }
                let packet = self.table.next_packet(&batch.room);
                served += batch.give(ring, &intake, packet, self.cid)?;
            }
            Ok(Round { served, waits: !self.table.has_news() })
        })?;
        if intake.wants_interrupt(ring)? {
            ring.signal_used_queue().map_err(RingFault::Call)?;
        }
        Ok(progress)
    }

    fn take(&mut self, chain: Chain<'_>, memory: &Memory) {
        let Ok(mut payload) = Vectors::readable(chain, memory) else { return };
        let mut bytes = [0; HEADER_SIZE];
        if payload.copy_to(&mut bytes) < HEADER_SIZE {
            return;
        }
        payload.skip(HEADER_SIZE);
        match Header::checked(&bytes, self.cid, payload.len()) {
            Ok(header) => {
                payload.truncate(header.length as usize);
                if !self.table.take(&header, &payload) {
                    self.take_unknown(&header);
                }
            }
            Err(BadHeader::Senseless(ports)) => self.table.reset(ports),
            Err(BadHeader::Stray) => {}
        }
    }

    /// Takes a packet of no connection.
    fn take_unknown(&mut self, header: &Header) {
        if header.operation != Operation::Request {
            return self.table.refuse(header.ports);
        }
        let token = self.token();
        let wish = Wish { tag: self.first_tag.wrapping_add(token), port: header.ports.host };
        let broker = &self.host.broker;
        self.table.request(token, header, || {
            broker.as_ref().is_some_and(|broker| wish.send(broker.as_fd()).is_ok())
        });
    }

    fn tell_reset(&mut self, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let available = |ring: &Ring| ring.get_queue().avail_idx(memory, Ordering::Acquire);
        if self.reset.is_told() {
            self.reset.look(available(ring)?.0);
        }
        let mut told = None;
        let before = available(ring)?.0;
        let owed = self.reset.is_owed();
        let progress = serve_while(ring, memory, MAX_PACKETS, |chain| {
            if !owed || told.is_some() {
                return None;
            }
            match Vectors::writable(chain, memory) {
                Ok(event) if event.len() >= EVENT_SIZE => {
                    told = Some(before);
                    // Cannot truncate: it is four bytes.
                    Some(event.copy_from(&EVENT_TRANSPORT_RESET.to_le_bytes()) as u32)
                }
                _ => Some(0),
            }
        });
        if let Some(before) = told {
            self.reset.tell(before);
        }
        self.event_starved = self.reset.is_owed();
        progress
    }

    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            match accept_with(&self.host.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(stream) => {
                    let token = self.token();
                    self.lobby.enter(token, stream);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    warn!(%error, "a client cannot be accepted");
                    self.accept_from = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn hear_broker(&mut self) {
        while let Some(broker) = &self.host.broker {
            match Answer::receive(broker.as_fd()) {
                Ok(Some(answer)) => self.hear_answer(answer),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(None) => self.host.broker = None,
                Err(error) => {
                    warn!(%error, "the broker cannot be understood");
                    self.host.broker = None;
                }
            }
        }
    }

    fn hear_answer(&mut self, answer: Answer) {
        let port = answer.wish.port;
        let stream = answer.stream.inspect_err(|error| debug!(port, %error, "nobody to connect to"));
        self.table.answer(answer.wish.tag.wrapping_sub(self.first_tag), stream.ok());
    }

    /// Ends what has had its time at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.lobby.expire(now);
        self.table.expire(now);
        self.reset.expire(now);
        self.accept_from = self.accept_from.filter(|from| *from > now);
    }

    fn wake_for_work(&mut self, wake: &mut Wake) {
        if self.reset.is_told() {
            wake.queue(EVENTS);
        }
        if self.rest_is_over() {
            self.rests = false;
            wake.queue(TX);
            wake.queue(RX);
        }
        if self.work_waits() {
            wake.queue(RX);
            wake.queue(EVENTS);
            // Until they are served, which may not be before the guest has started them: woken once is enough.
            self.starved = true;
            self.event_starved = true;
        }
    }

    fn rest_is_over(&self) -> bool {
        self.rests && !self.reset.holds()
    }

    /// Whether a queue has work that nobody else will wake it for.
    fn work_waits(&self) -> bool {
        (self.table.has_news() && !self.starved) || (self.reset.is_owed() && !self.event_starved)
    }

    /// Whether packets rest; then nothing is taken from their queues, which are woken when it is over.
    fn packets_rest(&mut self) -> bool {
        if self.reset.holds() {
            self.reset.hold();
            self.rests = true;
        }
        self.rests
    }
}

impl Device for VsockDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let index = usize::from(queue);
        self.look_at_position(index, ring);
        let progress = match queue {
            RX | TX if self.packets_rest() => return Ok(Progress::Idle),
            RX => self.serve_receive(ring, memory),
            TX => serve_chains(ring, memory, MAX_PACKETS, |chain| {
                self.take(chain, memory);
                0
            }),
            _ => self.tell_reset(ring, memory),
        }?;
        self.left[index] = Some(ring.get_queue().next_avail());
        Ok(progress)
    }

    fn drain(&mut self, queue: u16, _ring: &mut Ring, _memory: &Memory) -> Result<(), RingFault> {
        // Nothing is in flight between turns; only nobody may be woken for a queue that is not there.
        match queue {
            RX => self.starved = true,
            EVENTS => self.event_starved = true,
            _ => {}
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        vec![SAVED]
    }

    /// Connections do not outlive their process: whoever takes a saved guest up has to tell it so.
    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        if state != [SAVED] {
            return Err("not the state of a socket device".into());
        }
        self.reset.owe();
        Ok(())
    }

    fn watches<'a>(&'a self, watches: &mut Vec<Watch<'a>>) {
        let own = |fd, token| Watch { fd, flags: PollFlags::IN, token };
        if self.accept_from.is_none() {
            watches.push(own(self.host.listener.as_fd(), LISTENER));
        }
        watches.extend(self.host.broker.iter().map(|broker| own(broker.as_fd(), BROKER)));
        watches.extend(self.lobby.streams().map(|(token, stream)| own(stream.as_fd(), token)));
        self.table.watches(watches);
    }

    fn ready(&mut self, token: u64, flags: PollFlags, wake: &mut Wake) {
        match token {
            LISTENER => self.accept(),
            BROKER => self.hear_broker(),
            _ if self.lobby.contains(token) => {
                if let Some((stream, port)) = self.lobby.hear(token) {
                    self.table.ask(token, stream, port);
                }
            }
            _ => self.table.ready(token, flags),
        }
        self.wake_for_work(wake);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.work_waits() || self.rest_is_over() {
            return Some(Instant::now());
        }
        [self.lobby.deadline(), self.table.deadline(), self.accept_from, self.reset.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn elapsed(&mut self, wake: &mut Wake) {
        self.expire(Instant::now());
        self.wake_for_work(wake);
    }
}
