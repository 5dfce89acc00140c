//! Taking and giving back many buffers at a time, for what comes in pieces much smaller than it flows.
//!
//! ```text
//!   Intake::new ──► take, take, take, … ──► one system call fills them ──► give, give, … ──► publish ──► wants_interrupt
//! ```
//! The rings are looked up in memory once, and a buffer that is one descriptor, as Linux gives them to be filled, costs one
//! look-up more; any other chain goes the way of all chains. Every number of the guest is checked as there.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::ring::{Memory, Ring, RingFault};
use super::vectors::Vectors;

/// Bytes of a descriptor, of an element of the used ring, of what is before the first of either ring (virtio 1.2, §2.7).
const DESCRIPTOR: usize = 16;
const ELEMENT: usize = 8;
const HEADER: usize = 4;
/// Where either ring has its index.
const INDEX: usize = 2;
/// `VIRTQ_DESC_F_NEXT`, `VIRTQ_DESC_F_WRITE` and `VIRTQ_DESC_F_INDIRECT`.
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// The rings of a queue, for one turn of serving it.
pub struct Intake<'m> {
    memory: &'m Memory,
    table: VolatileSlice<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    size: u16,
    /// Up to here of the available ring chains are known to be there.
    known: u16,
    /// Where the used ring was when the turn began.
    begun: u16,
}

/// A chain that was taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its head.
    pub head: u16,
    /// How many writable bytes it has; none if it is not a list of buffers in memory.
    pub length: usize,
}

impl<'m> Intake<'m> {
    /// Finds the rings; each has to be in one region of memory.
    pub fn new(ring: &Ring, memory: &'m Memory) -> Result<Self, RingFault> {
        let queue = ring.get_queue();
        let size = queue.size();
        let find = |address: u64, length: usize| {
            memory.get_slice(GuestAddress(address), length).map_err(QueueError::GuestMemory)
        };
        if !queue.ready() || size == 0 {
            return Err(QueueError::QueueNotReady.into());
        }
        let entries = usize::from(size);
        Ok(Self {
            memory,
            table: find(queue.desc_table(), DESCRIPTOR * entries)?,
            // With the driver's event index behind it.
            available: find(queue.avail_ring(), HEADER + 2 * entries + 2)?,
            used: find(queue.used_ring(), HEADER + ELEMENT * entries)?,
            size,
            known: queue.next_avail(),
            begun: queue.next_used(),
        })
    }

    /// Takes the next chain, if there is one, and appends what may be written of it to `room`.
    pub fn take(&mut self, ring: &mut Ring, room: &mut Vectors<'m>) -> Result<Option<Taken>, RingFault> {
        let position = ring.get_queue().next_avail();
        if position == self.known {
            let index = load(&self.available, INDEX, Ordering::Acquire)?;
            if index.wrapping_sub(position) > self.size {
                return Err(QueueError::InvalidAvailRingIndex.into());
            }
            self.known = index;
            if index == position {
                return Ok(None);
            }
        }
        let entry = HEADER + 2 * usize::from(position % self.size);
        let head = load(&self.available, entry, Ordering::Relaxed)?;
        let Some(only) = self.only_descriptor(head)? else { return self.take_chain(ring, room) };
        ring.get_queue_mut().set_next_avail(position.wrapping_add(1));
        ring.wrote(only.addr(), only.len().into());
        let length = room.append(self.memory, std::iter::once(only)).unwrap_or(0);
        Ok(Some(Taken { head, length }))
    }

    /// The descriptor at `head` if it is a chain by itself, to be written.
    fn only_descriptor(&self, head: u16) -> Result<Option<Descriptor>, RingFault> {
        if head >= self.size {
            return Ok(None);
        }
        let read = self.table.read_obj::<Descriptor>(DESCRIPTOR * usize::from(head));
        let descriptor = read.map_err(vm_memory::GuestMemoryError::from).map_err(QueueError::GuestMemory)?;
        let alone = descriptor.flags() & (F_NEXT | F_WRITE | F_INDIRECT) == F_WRITE;
        Ok(Some(descriptor).filter(|_| alone))
    }

    fn take_chain(&mut self, ring: &mut Ring, room: &mut Vectors<'m>) -> Result<Option<Taken>, RingFault> {
        let chain = ring.get_queue_mut().iter(self.memory)?.next();
        let Some(chain) = chain else { return Ok(None) };
        let head = chain.head_index();
        ring.will_write(&chain);
        let length = room.append_writable(chain, self.memory).unwrap_or(0);
        Ok(Some(Taken { head, length }))
    }

    /// Gives a chain back, with so many bytes written; the driver sees it when it is [published](Self::publish).
    pub fn give(&self, ring: &mut Ring, head: u16, written: u32) -> Result<(), RingFault> {
        if head >= self.size {
            return Err(QueueError::InvalidDescriptorIndex.into());
        }
        ring.count_used(written);
        let queue = ring.get_queue_mut();
        let index = queue.next_used();
        let element = u64::from(head) | u64::from(written) << 32;
        let place = HEADER + ELEMENT * usize::from(index % self.size);
        let stored = self.used.write_obj(element.to_le(), place);
        stored.map_err(vm_memory::GuestMemoryError::from).map_err(QueueError::GuestMemory)?;
        queue.set_next_used(index.wrapping_add(1));
        Ok(())
    }

    /// Shows the driver all that was given back.
    pub fn publish(&self, ring: &Ring) -> Result<(), RingFault> {
        let stored = self.used.store(ring.get_queue().next_used().to_le(), INDEX, Ordering::Release);
        stored.map_err(vm_memory::GuestMemoryError::from).map_err(QueueError::GuestMemory)?;
        Ok(())
    }

    /// Whether the driver wants to hear of what was given back in this turn.
    pub fn wants_interrupt(&self, ring: &Ring) -> Result<bool, RingFault> {
        let queue = ring.get_queue();
        let now = queue.next_used();
        if now == self.begun {
            return Ok(false);
        }
        // What was used is to be seen before what is wanted is read.
        fence(Ordering::SeqCst);
        if queue.event_idx_enabled() {
            let event = load(&self.available, HEADER + 2 * usize::from(self.size), Ordering::Relaxed)?;
            return Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(self.begun));
        }
        Ok(load(&self.available, 0, Ordering::Relaxed)? & 1 == 0)
    }
}

fn load(slice: &VolatileSlice<'_>, at: usize, ordering: Ordering) -> Result<u16, RingFault> {
    let word = slice.load::<u16>(at, ordering).map_err(vm_memory::GuestMemoryError::from);
    Ok(u16::from_le(word.map_err(QueueError::GuestMemory)?))
}
