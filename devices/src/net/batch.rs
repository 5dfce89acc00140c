//! The buffers that one packet may fill: several chains, used all at once or not at all.
//!
//! A driver that sees the first buffer of a packet expects the others to be there (virtio 1.2, §5.1.6.4): the used index
//! moves over all of them in one store.

use virtio_queue::QueueOwnedT;

use crate::serve::{Intake, Memory, Ring, RingFault, Taken, Vectors};

/// Chains that were taken from the available ring and not used yet, in their order.
pub(super) struct Batch<'m> {
    intake: Intake<'m>,
    chains: Vec<Taken>,
    pub room: Vectors<'m>,
}

impl<'m> Batch<'m> {
    /// No chains.
    pub fn new(ring: &Ring, memory: &'m Memory) -> Result<Self, RingFault> {
        Ok(Self { intake: Intake::new(ring, memory)?, chains: Vec::new(), room: Vectors::default() })
    }

    /// Takes chains until there is room for `wanted` bytes, or `most` are taken, or there are no more.
    ///
    /// A chain that cannot be written is used at once, and empty.
    pub fn fill(&mut self, ring: &mut Ring, wanted: usize, most: usize) -> Result<(), RingFault> {
        while self.room.len() < wanted && self.chains.len() < most {
            let Some(taken) = self.intake.take(ring, &mut self.room)? else { return Ok(()) };
            if taken.length > 0 {
                self.chains.push(taken);
            } else {
                self.intake.give(ring, taken.head, 0)?;
                self.intake.publish(ring)?;
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
        let last = self.chains.iter().position(|Taken { length, .. }| {
            let here = left <= *length;
            left -= left.min(*length);
            here
        })?;
        Some(last + 1)
    }

    /// Gives the first chains back as used, filled with `bytes`; the rest stays.
    pub fn use_first(&mut self, ring: &mut Ring, bytes: usize) -> Result<(), RingFault> {
        let count = self.chains_for(bytes).unwrap_or(self.chains.len());
        let (mut left, mut total) = (bytes, 0);
        for Taken { head, length } in self.chains.drain(..count) {
            let here = left.min(length);
            left -= here;
            total += length;
            // Cannot truncate: no packet is that long.
            self.intake.give(ring, head, here as u32)?;
        }
        self.room.skip(total);
        self.intake.publish(ring)
    }

    /// Makes what was not used available again, and interrupts the driver if it wants to hear of what was used.
    pub fn end(self, ring: &mut Ring) -> Result<(), RingFault> {
        for _ in &self.chains {
            ring.get_queue_mut().go_to_previous_position();
        }
        if self.intake.wants_interrupt(ring)? {
            ring.signal_used_queue().map_err(RingFault::Call)?;
        }
        Ok(())
    }
}
