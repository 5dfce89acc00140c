//! The device itself: requests are gathered, one flush serves all of them, then all are answered in their order.

use tracing::warn;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::spec::{CONFIG_SIZE, DONE, FAILED, FLUSH, QUEUE_SIZES, config};
use super::state::Medium;
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// A virtio persistent memory device.
pub struct PmemDevice {
    medium: Medium,
    config: [u8; CONFIG_SIZE],
    /// Requests that were made before the flush that is under way, and are answered with it.
    gathered: Vec<Request>,
    /// A flush has failed: the kernel reports lost writes once, and what it says afterwards proves nothing.
    failed: bool,
}

/// One request, every number in it an allegation of the guest.
struct Request {
    head: u16,
    /// Where the answer goes, if there is room for one.
    answer: Option<GuestAddress>,
    /// Whether it is a flush.
    flush: bool,
}

impl Request {
    fn parse(chain: &Chain<'_>, memory: &Memory) -> Self {
        let mut kind = None;
        let mut answer = None;
        for descriptor in chain.clone() {
            if descriptor.is_write_only() {
                answer = answer.or((descriptor.len() >= 4).then_some(descriptor.addr()));
            } else if kind.is_none() && descriptor.len() >= 4 {
                kind = memory.read_obj::<u32>(descriptor.addr()).ok().map(u32::from_le);
            }
        }
        Self { head: chain.head_index(), answer, flush: kind == Some(FLUSH) }
    }

    /// Writes the answer, and returns how many bytes that were.
    fn answer(&self, memory: &Memory, flushed: bool) -> u32 {
        let result = if self.flush && flushed { DONE } else { FAILED };
        let written = self.answer.map(|address| memory.write_obj(result.to_le(), address));
        if matches!(written, Some(Ok(()))) { 4 } else { 0 }
    }
}

impl PmemDevice {
    /// A device of `size` bytes whose flushes reach `medium`.
    ///
    /// Where its memory is in the guest's address space is the monitor's decision, who overrides the 0 of our
    /// configuration.
    pub fn new(medium: Medium, size: u64) -> Self {
        Self { medium, config: config(0, size), gathered: Vec::new(), failed: false }
    }

    /// Takes what is available, at most a ring full.
    fn gather(&mut self, ring: &mut Ring, memory: &Memory) -> Result<(), RingFault> {
        let mut promised = false;
        loop {
            while self.gathered.len() < usize::from(QUEUE_SIZES[0]) {
                let Some(chain) = ring.get_queue_mut().iter(memory)?.next() else { break };
                self.gathered.push(Request::parse(&chain, memory));
            }
            if !self.gathered.is_empty() || !ring.enable_notification()? {
                return Ok(());
            }
            if std::mem::replace(&mut promised, true) {
                // Something is available, and yet there was no chain.
                return Err(RingFault::Unreadable);
            }
        }
    }

    /// Does some of the work; answers whether there is no more of it, and if there was any, how it ended.
    fn flush_some(&mut self) -> Option<bool> {
        if self.failed || !self.gathered.iter().any(|request| request.flush) {
            return Some(!self.failed);
        }
        let flushed = self.medium.flush_some()?;
        if let Err(error) = &flushed {
            warn!(%error, "the image cannot be written; no flush will be answered well any more");
            self.failed = true;
        }
        Some(flushed.is_ok())
    }

    fn answer_all(&mut self, ring: &mut Ring, memory: &Memory, flushed: bool) -> Result<(), RingFault> {
        for request in std::mem::take(&mut self.gathered) {
            let written = request.answer(memory, flushed);
            if let Some(address) = request.answer {
                ring.wrote(address, u64::from(written));
            }
            ring.add_used(request.head, written)?;
        }
        if ring.needs_notification()? {
            ring.signal_used_queue().map_err(RingFault::Call)?;
        }
        Ok(())
    }
}

impl Device for PmemDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, _queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        if self.gathered.is_empty() {
            self.gather(ring, memory)?;
        }
        if self.gathered.is_empty() {
            return Ok(Progress::Idle);
        }
        if let Some(flushed) = self.flush_some() {
            self.answer_all(ring, memory, flushed)?;
        }
        Ok(Progress::More)
    }

    fn drain(&mut self, _queue: u16, ring: &mut Ring, _memory: &Memory) -> Result<(), RingFault> {
        // A flush takes as long as the disk does. The driver that resets the device does not want to know how it
        // ended, and a successor finds the requests where they were.
        let unanswered = std::mem::take(&mut self.gathered);
        let queue = ring.get_queue_mut();
        queue.set_next_avail(queue.next_avail().wrapping_sub(unanswered.len() as u16));
        self.medium.abandon();
        Ok(())
    }
}
