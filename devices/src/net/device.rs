//! The device itself.

use std::time::Instant;

use rustix::event::PollFlags;
use tracing::debug;
use virtio_queue::QueueT;

use super::batch::Batch;
use super::spec::{
    CTRL_ERROR, CTRL_MQ_PAIRS, CTRL_OFFLOADS, CTRL_OK, DEFAULT_MTU, F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ, F_MAC,
    F_MQ, F_MRG_RXBUF, F_MTU, F_STATUS, GUEST_OFFLOADS, HEADER_SIZE, LINK_UP, MAX_COMMAND, MAX_PACKET,
    MAX_PACKETS, NUM_BUFFERS,
};
use super::state::{Memory as Remembered, Settings, Taps, tap_offloads};
use super::sys;
use super::tap::{Read, Tap};
use crate::rate::Limiter;
use crate::serve::{
    Chain, Device, Memory, Progress, Ring, RingFault, Vectors, Wake, Watch, serve_chains, serve_while,
};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// A virtio network device.
pub struct NetDevice {
    settings: Settings,
    config: Vec<u8>,
    queue_sizes: Vec<u16>,
    taps: Vec<Tap>,
    accepted: u64,
    remembered: Remembered,
    /// What is remembered is a predecessor's, and the driver is the same.
    restored: bool,
    /// For each pair: no buffers are known to be there for packets.
    starved: Vec<bool>,
    receiving: Limited,
    sending: Limited,
}

/// One direction's limits.
struct Limited {
    limiter: Limiter,
    until: Option<Instant>,
}

impl Limited {
    fn new(settings: &Settings) -> Self {
        Self { limiter: Limiter::new(settings.limits, Instant::now()), until: None }
    }

    /// Whether so many bytes may pass now.
    fn admits(&mut self, bytes: usize) -> bool {
        self.until = self.limiter.take(bytes as u64, Instant::now()).err();
        self.until.is_none()
    }
}

impl NetDevice {
    /// A device with a pair of queues for each tap.
    pub fn new(settings: Settings, taps: Taps) -> Self {
        let pairs = taps.0.len() as u16;
        let mut config = settings.mac.to_vec();
        for field in [LINK_UP, pairs, settings.mtu.unwrap_or(DEFAULT_MTU)] {
            config.extend(field.to_le_bytes());
        }
        let (receiving, sending) = (Limited::new(&settings), Limited::new(&settings));
        Self {
            config,
            queue_sizes: vec![settings.queue_size; 2 * taps.0.len() + 1],
            starved: vec![true; taps.0.len()],
            taps: taps.0.into_iter().map(Tap::new).collect(),
            accepted: 0,
            remembered: Remembered { pairs: 1, offloads: 0 },
            restored: false,
            settings,
            receiving,
            sending,
        }
    }

    fn accepted(&self, feature: u64) -> bool {
        self.accepted & feature != 0
    }

    /// The queue of commands follows the pairs; without F_MQ there is one pair (virtio 1.2, §5.1.2).
    fn control_queue(&self) -> u16 {
        if self.accepted(F_MQ) { 2 * self.taps.len() as u16 } else { 2 }
    }

    /// The pair to whose queue the packets of a tap go: each tap is read, however many pairs the guest uses.
    fn pair_of(&self, tap: usize) -> usize {
        tap % usize::from(self.remembered.pairs.max(1))
    }

    fn set_offloads(&mut self, offloads: u64) {
        self.remembered.offloads = offloads;
        for tap in &self.taps {
            if let Err(error) = sys::set_offloads(tap.fd(), tap_offloads(offloads)) {
                debug!(%error, "a tap keeps its offloads");
            }
        }
    }

    fn serve_receive(
        &mut self,
        pair: usize,
        ring: &mut Ring,
        memory: &Memory,
    ) -> Result<Progress, RingFault> {
        self.starved[pair] = false;
        let mut batch = Batch::new(ring, memory)?;
        let received = self.receive(pair, ring, &mut batch);
        if received.is_err() {
            self.starved[pair] = true;
        }
        batch.end(ring)?;
        received
    }

    fn receive(
        &mut self,
        pair: usize,
        ring: &mut Ring,
        batch: &mut Batch<'_>,
    ) -> Result<Progress, RingFault> {
        let merges = self.accepted(F_MRG_RXBUF);
        let most = if merges { usize::from(ring.get_queue().size()) } else { 1 };
        let taps: Vec<usize> = (0..self.taps.len()).filter(|tap| self.pair_of(*tap) == pair).collect();
        let mut announced = false;
        for turn in 0..MAX_PACKETS {
            let waiting = |tap: &&usize| self.taps[**tap].has_packets();
            // Each in its turn.
            let next = taps.iter().cycle().skip(turn % taps.len().max(1)).take(taps.len()).find(waiting);
            let Some(tap) = next.copied().filter(|_| self.receiving.until.is_none()) else {
                return Ok(Progress::Idle);
            };
            let position = ring.get_queue().next_avail();
            batch.fill(ring, self.taps[tap].expected(), most)?;
            let read = if batch.is_empty() {
                Read::Parked
            } else {
                self.taps[tap].next_packet(ring, batch, most)?
            };
            let moved = ring.get_queue().next_avail() != position;
            match read {
                Read::Packet(count) => self.pass_on(tap, count, ring, batch)?,
                Read::Nothing => {}
                Read::Parked if merges || batch.is_empty() => {
                    if ring.enable_notification()? {
                        // Buffers came between the two looks.
                        if announced && !moved {
                            return Err(RingFault::Unreadable);
                        }
                        announced = true;
                        continue;
                    }
                    if batch.chains() < most {
                        self.starved[pair] = true;
                        return Ok(Progress::Idle);
                    }
                    // The guest has given all that it can, and a longer packet will never fit.
                    self.taps[tap].parked = None;
                }
                Read::Parked => {
                    // Each buffer is for one packet, and this one is not for any.
                    self.taps[tap].parked = None;
                    batch.use_first(ring, 0)?;
                }
            }
            announced = false;
        }
        Ok(Progress::More)
    }

    /// Gives the guest the packet that is in the batch, unless it is too early.
    fn pass_on(
        &mut self,
        tap: usize,
        count: usize,
        ring: &mut Ring,
        batch: &mut Batch<'_>,
    ) -> Result<(), RingFault> {
        if count < HEADER_SIZE {
            return Ok(());
        }
        if !self.receiving.admits(count - HEADER_SIZE) {
            self.taps[tap].park(&batch.room, count);
            return Ok(());
        }
        let chains = batch.chains_for(count).unwrap_or(1) as u16;
        let mut field = batch.room.first(HEADER_SIZE);
        field.skip(NUM_BUFFERS);
        field.copy_from(&chains.to_le_bytes());
        batch.use_first(ring, count)
    }

    fn serve_send(&mut self, pair: usize, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let Self { taps, sending, .. } = self;
        let tap = &mut taps[pair];
        if sending.until.is_some() {
            return Ok(Progress::Idle);
        }
        serve_while(ring, memory, MAX_PACKETS, |chain| {
            let packet = Vectors::readable(chain, memory);
            let Some(packet) =
                packet.ok().filter(|packet| (HEADER_SIZE..=MAX_PACKET).contains(&packet.len()))
            else {
                return Some(0);
            };
            // A tap that was full has been paid for already.
            let paid = tap.full || sending.admits(packet.len() - HEADER_SIZE);
            (paid && tap.send(&packet)).then_some(0)
        })
    }

    fn obey(&mut self, chain: Chain<'_>, memory: &Memory) -> u32 {
        let command = Vectors::readable(chain.clone(), memory);
        let answer = Vectors::writable(chain, memory);
        let (Ok(command), Ok(answer)) = (command, answer) else { return 0 };
        let mut bytes = [0; MAX_COMMAND];
        let length = command.copy_to(&mut bytes).min(command.len());
        let done = self.carry_out(&bytes[..length]).is_some();
        answer.copy_from(&[if done { CTRL_OK } else { CTRL_ERROR }]) as u32
    }

    fn carry_out(&mut self, command: &[u8]) -> Option<()> {
        let (kind, argument) = command.split_at_checked(2)?;
        if kind == CTRL_MQ_PAIRS && self.accepted(F_MQ) {
            let pairs = u16::from_le_bytes(argument.try_into().ok()?);
            let fits = (1..=self.taps.len()).contains(&usize::from(pairs));
            self.remembered.pairs = fits.then_some(pairs)?;
            return Some(());
        }
        if kind == CTRL_OFFLOADS && self.accepted(F_CTRL_GUEST_OFFLOADS) {
            let offloads = u64::from_le_bytes(argument.try_into().ok()?);
            let fits = offloads & !(self.accepted & GUEST_OFFLOADS) == 0;
            self.set_offloads(fits.then_some(offloads)?);
            return Some(());
        }
        None
    }
}

impl Device for NetDevice {
    fn features(&self) -> u64 {
        let offloads = self.settings.offloads.features();
        let mut features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | offloads;
        features |= F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ;
        if offloads & GUEST_OFFLOADS != 0 {
            features |= F_CTRL_GUEST_OFFLOADS;
        }
        if self.settings.mtu.is_some() {
            features |= F_MTU;
        }
        if self.taps.len() > 1 {
            features |= F_MQ;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn accept_features(&mut self, features: u64) {
        let same = std::mem::take(&mut self.restored) || features == self.accepted;
        self.accepted = features;
        if !same {
            self.remembered.pairs = 1;
            self.set_offloads(features & GUEST_OFFLOADS);
        }
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let pair = usize::from(queue / 2);
        if queue == self.control_queue() {
            return serve_chains(ring, memory, MAX_PACKETS, |chain| self.obey(chain, memory));
        }
        if pair >= self.taps.len() {
            // The place of the queue of commands, for a driver that has another.
            return Ok(Progress::Idle);
        }
        if queue.is_multiple_of(2) {
            self.serve_receive(pair, ring, memory)
        } else {
            self.serve_send(pair, ring, memory)
        }
    }

    fn drain(&mut self, queue: u16, _ring: &mut Ring, _memory: &Memory) -> Result<(), RingFault> {
        // Nothing is in flight between turns; only nobody may be woken for a queue that is not there.
        if let Some(starved) =
            self.starved.get_mut(usize::from(queue / 2)).filter(|_| queue.is_multiple_of(2))
        {
            *starved = true;
        }
        Ok(())
    }

    fn watches<'a>(&'a self, watches: &mut Vec<Watch<'a>>) {
        for (index, tap) in self.taps.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !tap.has_packets() && !self.starved[self.pair_of(index)]);
            flags.set(PollFlags::OUT, tap.full);
            // An error of a tap is always told: who wants nothing of it must not look at all.
            if !flags.is_empty() {
                watches.push(Watch { fd: tap.fd(), flags, token: index as u64 });
            }
        }
    }

    fn ready(&mut self, token: u64, flags: PollFlags, wake: &mut Wake) {
        let index = token as usize;
        let pair = self.pair_of(index);
        let Some(tap) = self.taps.get_mut(index) else { return };
        if tap.full {
            wake.queue(2 * token as u16 + 1);
        }
        if flags != PollFlags::OUT {
            tap.readable = true;
            wake.queue(2 * pair as u16);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.receiving.until, self.sending.until].into_iter().flatten().min()
    }

    fn elapsed(&mut self, wake: &mut Wake) {
        let now = Instant::now();
        let over = |limited: &mut Limited| limited.until.take_if(|until| *until <= now).is_some();
        let (receive, send) = (over(&mut self.receiving), over(&mut self.sending));
        for pair in 0..self.taps.len() as u16 {
            if receive {
                wake.queue(2 * pair);
            }
            if send {
                wake.queue(2 * pair + 1);
            }
        }
    }

    fn save(&self) -> Vec<u8> {
        self.remembered.to_bytes()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        let remembered = Remembered::from_bytes(state);
        let remembered = remembered.filter(|one| {
            (1..=self.taps.len()).contains(&usize::from(one.pairs)) && one.offloads & !GUEST_OFFLOADS == 0
        });
        self.remembered = remembered.ok_or("not the state of a network device with these queues")?;
        self.set_offloads(self.remembered.offloads);
        self.restored = true;
        Ok(())
    }
}
