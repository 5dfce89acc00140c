//! The buffers for what one connection has for the guest: several chains where it has much, so that it is read by one call.
//!
//! ```text
//!   chain   │header│ payload │   │header│ payload │   │header│ payload │
//!                   └───────────────── one readv ───────────────┘
//! ```
//! Linux gives buffers of less than 4 KiB; a call for each of them would cost more than the bytes.

use virtio_queue::QueueOwnedT;

use super::packet::Header;
use super::spec::HEADER_SIZE;
use crate::serve::{Memory, Ring, RingFault, Vectors};

/// Chains that were taken from the available ring and not used yet, in their order.
pub(super) struct Batch<'m> {
    chains: Vec<Buffer<'m>>,
    /// The payloads of all, one after the other.
    pub room: Vectors<'m>,
    /// Chains that had no room for a packet and were used at once.
    pub refused: usize,
}

struct Buffer<'m> {
    head: u16,
    header: Vectors<'m>,
    payload: usize,
}

impl<'m> Batch<'m> {
    /// Takes up to `most` chains: fewer where there are no more, or where the next cannot be filled with others.
    pub fn take(ring: &mut Ring, memory: &'m Memory, most: usize) -> Result<Self, RingFault> {
        let mut batch = Self { chains: Vec::with_capacity(most), room: Vectors::default(), refused: 0 };
        while batch.chains.len() + batch.refused < most {
            let Some(chain) = ring.get_queue_mut().iter(memory)?.next() else { break };
            let head = chain.head_index();
            ring.will_write(&chain);
            let buffer = Vectors::writable(chain, memory).ok().filter(|buffer| buffer.len() >= HEADER_SIZE);
            let Some(mut header) = buffer else {
                // What was taken before may yet go back, and must be the last that did not come.
                if batch.chains.is_empty() {
                    ring.add_used(head, 0)?;
                    batch.refused += 1;
                    continue;
                }
                ring.get_queue_mut().go_to_previous_position();
                break;
            };
            let rest = header.split_off(HEADER_SIZE);
            let payload = rest.len();
            let alone = batch.chains.is_empty();
            if (payload == 0 && !alone) || !batch.room.append(rest) {
                ring.get_queue_mut().go_to_previous_position();
                break;
            }
            batch.chains.push(Buffer { head, header, payload });
            if payload == 0 {
                break;
            }
        }
        Ok(batch)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Gives the guest a packet whose payload is in the room, in as many as it takes; the rest of the chains are
    /// available again. Answers how many it took.
    pub fn give(self, ring: &mut Ring, packet: Option<Header>, cid: u64) -> Result<usize, RingFault> {
        let mut used = 0;
        if let Some(packet) = packet {
            let mut left = packet.length;
            for Buffer { head, header, payload } in &self.chains {
                // Cannot truncate: it is no more than `left`.
                let length = (left as usize).min(*payload) as u32;
                header.copy_from(&Header { length, ..packet }.to_guest(cid));
                // Cannot overflow: a payload is limited.
                ring.add_used(*head, HEADER_SIZE as u32 + length)?;
                used += 1;
                left -= length;
                if left == 0 {
                    break;
                }
            }
        }
        for _ in used..self.chains.len() {
            ring.get_queue_mut().go_to_previous_position();
        }
        Ok(used)
    }
}
