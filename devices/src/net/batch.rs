//! The buffers that one packet may fill: several chains, used all at once or not at all.
//!
//! A driver that sees the first buffer of a packet expects the others to be there (virtio 1.2, §5.1.6.4): the used index
//! moves over all of them in one store.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::serve::{Memory, Ring, RingFault, Vectors};

/// Bytes of a used element, and of what is before the first (virtio 1.2, §2.7.8).
const ELEMENT: u64 = 8;
const USED_HEADER: u64 = 4;

/// Chains that were taken from the available ring and not used yet, in their order.
pub(super) struct Batch<'m> {
    memory: &'m Memory,
    chains: Vec<(u16, usize)>,
    pub room: Vectors<'m>,
}

impl<'m> Batch<'m> {
    /// No chains.
    pub fn new(memory: &'m Memory) -> Self {
        Self { memory, chains: Vec::new(), room: Vectors::default() }
    }

    /// Takes chains until there is room for `wanted` bytes, or `most` are taken, or there are no more.
    ///
    /// A chain that cannot be written is used at once, and empty.
    pub fn fill(&mut self, ring: &mut Ring, wanted: usize, most: usize) -> Result<(), RingFault> {
        while self.room.len() < wanted && self.chains.len() < most {
            let Some(chain) = ring.get_queue_mut().iter(self.memory)?.next() else { return Ok(()) };
            let head = chain.head_index();
            ring.will_write(&chain);
            match self.room.append_writable(chain, self.memory) {
                Ok(length) if length > 0 => self.chains.push((head, length)),
                _ => ring.add_used(head, 0)?,
            }
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// How many there are.
    pub fn chains(&self) -> usize {
        self.chains.len()
    }

    /// How many chains a packet of so many bytes takes; `None` if there is not room for it.
    pub fn chains_for(&self, bytes: usize) -> Option<usize> {
        let mut left = bytes;
        let last = self.chains.iter().position(|(_, length)| {
            let here = left <= *length;
            left -= left.min(*length);
            here
        })?;
        Some(last + 1)
    }

    /// Gives the first chains back as used, filled with `bytes`; the rest stays.
    pub fn use_first(&mut self, ring: &mut Ring, bytes: usize) -> Result<(), RingFault> {
        let count = self.chains_for(bytes).unwrap_or(self.chains.len());
        let used: Vec<(u16, usize)> = self.chains.drain(..count).collect();
        let total: usize = used.iter().map(|(_, length)| length).sum();
        self.room.skip(total);
        let mut left = bytes;
        for (place, (head, length)) in used.iter().enumerate() {
            let here = left.min(*length);
            left -= here;
            // Cannot truncate: no packet is that long.
            if place + 1 < used.len() {
                write_unnoticed(ring, self.memory, *head, here as u32)?;
            } else {
                ring.add_used(*head, here as u32)?;
            }
        }
        Ok(())
    }

    /// Makes what was not used available again.
    pub fn put_back(self, ring: &mut Ring) {
        for _ in &self.chains {
            ring.get_queue_mut().go_to_previous_position();
        }
    }
}

/// Writes an element of the used ring without moving the used index, which the driver looks at.
fn write_unnoticed(ring: &mut Ring, memory: &Memory, head: u16, length: u32) -> Result<(), RingFault> {
    let queue = ring.get_queue_mut();
    let index = queue.next_used();
    let at = queue.used_ring() + USED_HEADER + ELEMENT * u64::from(index % queue.size());
    let element = u64::from(head) | u64::from(length) << 32;
    memory.write_obj(element.to_le(), GuestAddress(at)).map_err(QueueError::GuestMemory)?;
    queue.set_next_used(index.wrapping_add(1));
    Ok(())
}

/// Whether the driver wants to hear of what was used since the used index was `before`.
pub(super) fn wants_interrupt(ring: &Ring, memory: &Memory, before: u16) -> Result<bool, RingFault> {
    let queue = ring.get_queue();
    let now = queue.next_used();
    if now == before {
        return Ok(false);
    }
    // What was used is to be seen before what is wanted is read.
    fence(Ordering::SeqCst);
    let available = queue.avail_ring();
    let read = |offset: u64| -> Result<u16, RingFault> {
        let word = memory.load::<u16>(GuestAddress(available + offset), Ordering::Relaxed);
        Ok(u16::from_le(word.map_err(QueueError::GuestMemory)?))
    };
    if queue.event_idx_enabled() {
        let event = read(4 + 2 * u64::from(queue.size()))?;
        return Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before));
    }
    Ok(read(0)? & 1 == 0)
}
