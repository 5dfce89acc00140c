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
use crate::serve::{Intake, Ring, RingFault, Vectors};

/// Chains that were taken from the available ring and not used yet, in their order.
pub(super) struct Batch<'m> {
    chains: Vec<Buffer>,
    /// The places of all headers, one after the other.
    headers: Vectors<'m>,
    /// The payloads of all, one after the other.
    pub room: Vectors<'m>,
    /// Chains that had no room for a packet and were used at once.
    pub refused: usize,
}

struct Buffer {
    head: u16,
    payload: usize,
}

impl<'m> Batch<'m> {
    /// Takes up to `most` chains: fewer where there are no more, or where the next cannot be filled with others.
    pub fn take(ring: &mut Ring, intake: &mut Intake<'m>, most: usize) -> Result<Self, RingFault> {
        let (headers, room) = (Vectors::default(), Vectors::default());
        let mut batch = Self { chains: Vec::with_capacity(most), headers, room, refused: 0 };
        let mut buffer = Vectors::default();
        while batch.chains.len() + batch.refused < most {
            buffer.clear();
            let Some(taken) = intake.take(ring, &mut buffer)? else { break };
            let alone = batch.chains.is_empty();
            let Some(payload) = taken.length.checked_sub(HEADER_SIZE) else {
                // What was taken before may yet go back, and must be the last that did not come.
                if alone {
                    intake.give(ring, taken.head, 0)?;
                    intake.publish(ring)?;
                    batch.refused += 1;
                    continue;
                }
                ring.get_queue_mut().go_to_previous_position();
                break;
            };
            let fits = payload > 0 || alone;
            if !fits || !buffer.deal(HEADER_SIZE, &mut batch.headers, &mut batch.room) {
                ring.get_queue_mut().go_to_previous_position();
                break;
            }
            batch.chains.push(Buffer { head: taken.head, payload });
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
    pub fn give(
        self,
        ring: &mut Ring,
        intake: &Intake<'m>,
        packet: Option<Header>,
        cid: u64,
    ) -> Result<usize, RingFault> {
        let mut used = 0;
        if let Some(packet) = packet {
            let mut headers = Vec::with_capacity(HEADER_SIZE * self.chains.len());
            let mut left = packet.length;
            for Buffer { head, payload } in &self.chains {
                // Cannot truncate: it is no more than `left`.
                let length = (left as usize).min(*payload) as u32;
                headers.extend(Header { length, ..packet }.to_guest(cid));
                // Cannot overflow: a payload is limited.
                intake.give(ring, *head, HEADER_SIZE as u32 + length)?;
                used += 1;
                left -= length;
                if left == 0 {
                    break;
                }
            }
            self.headers.copy_from(&headers);
            intake.publish(ring)?;
        }
        for _ in used..self.chains.len() {
            ring.get_queue_mut().go_to_previous_position();
        }
        Ok(used)
    }
}
