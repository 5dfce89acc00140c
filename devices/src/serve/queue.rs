//! A queue of the device, as vhost-user drives it.
//!
//! ```text
//!   idle ── kick given ──► ready ∧ enabled = live ── guest breaks it ──► broken ── addresses set anew ──► idle
//!    ▲                              │ GET_VRING_BASE
//!    └──────────────────────────────┘
//! ```

use std::fs::File;
use std::io::{ErrorKind, Write};

use tracing::debug;
use vhost::vhost_user::Error;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

use super::inflight::Area;
use super::memory::SharedMemory;
use super::ring::{Memory, Ring, RingFault, Tally, Writes};
use crate::virtio::spec::used_ring_size;

/// A queue of the device, and what vhost-user says of it.
pub(super) struct Queue {
    pub ring: VringMutex<GuestMemoryAtomic<Memory>>,
    error: Option<File>,
    /// The guest has broken it: nothing is read from it until it is set up anew.
    broken: bool,
    pub tally: Tally,
    /// Where what is in flight is noted, if the front end keeps that.
    pub in_flight: Option<Area>,
    /// There is work left over from the last time, or that nobody has kicked for.
    pub pending: bool,
}

impl Queue {
    /// A queue that is not set up yet.
    pub fn new(size: u16, memory: &SharedMemory) -> Result<Self, QueueError> {
        let ring = VringMutex::new(memory.mapped.clone(), size)?;
        Ok(Self {
            ring,
            error: None,
            broken: false,
            tally: Tally::default(),
            in_flight: None,
            pending: false,
        })
    }

    /// The ring, for its device.
    pub fn ring<'a>(&'a mut self, writes: Option<&'a mut Writes>) -> Ring<'a> {
        Ring::new(self.ring.get_mut())
            .noting(self.in_flight.as_mut())
            .counting(&mut self.tally)
            .logging(writes)
    }

    /// The used ring with its event index: first address and bytes.
    pub fn used_ring(&self) -> (u64, u64) {
        let ring = self.ring.get_ref();
        let queue = ring.get_queue();
        (queue.used_ring(), used_ring_size(queue.size()))
    }

    /// Goes on behind the last chain that was used, which the driver knows, with what a predecessor has left in flight.
    pub fn take_up(&mut self, used_index: u16, memory: &Memory) -> vhost::vhost_user::Result<()> {
        let Some(area) = &mut self.in_flight else { return Ok(()) };
        let in_flight = area.take_up(used_index)?;
        let mut state = self.ring.get_mut();
        let queue = state.get_queue_mut();
        if !in_flight.is_empty() {
            queue.set_next_avail(used_index);
        }
        // What comes next of the available ring must be just what is in flight.
        for position in (0..in_flight.len() as u16).map(|number| used_index.wrapping_add(number)) {
            let entry = 4 + 2 * u64::from(position % queue.size().max(1));
            let head =
                queue.avail_ring().checked_add(entry).map(|at| memory.read_obj::<u16>(GuestAddress(at)));
            if !matches!(head, Some(Ok(head)) if in_flight.contains(&u16::from_le(head))) {
                return Err(Error::InvalidOperation("chains of another order are in flight"));
            }
        }
        Ok(())
    }

    /// Whether it is to be served.
    pub fn live(&self) -> bool {
        let ring = self.ring.get_ref();
        ring.is_enabled() && ring.get_queue().ready() && !self.broken
    }

    /// Ends the queue, and tells the front end.
    pub fn fail(&mut self, index: u16, fault: &RingFault) {
        debug!(index, error = fault as &dyn std::error::Error, "the guest has broken a queue");
        self.broken = true;
        self.tally.faults += 1;
        self.pending = false;
        if let Some(eventfd) = &mut self.error {
            // Whether anybody wants to know is the front end's business.
            let _ = eventfd.write_all(&1u64.to_ne_bytes());
        }
    }

    /// Makes the queue ready; there may be buffers that nobody kicks for again.
    pub fn set_kick(&mut self, kick: Option<File>) {
        let ready = kick.is_some();
        self.ring.set_kick(kick);
        if ready {
            self.ring.set_queue_ready(true);
            self.pending = true;
        }
    }

    /// Takes note of a kick.
    pub fn take_kick(&mut self, index: u16) {
        match self.ring.read_kick() {
            Ok(_) => self.pending = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // It would be ready, and unreadable, for ever.
            Err(error) => self.fail(index, &RingFault::Kick(error)),
        }
    }

    /// Has errors go to `file`.
    pub fn set_error(&mut self, file: Option<File>) {
        self.error = file;
    }

    /// The rings were set up anew.
    pub fn mend(&mut self) {
        self.broken = false;
    }

    /// Ends serving, and returns where in the available ring to go on.
    pub fn stop(&mut self) -> u16 {
        self.ring.set_queue_ready(false);
        self.ring.set_kick(None);
        self.ring.set_call(None);
        self.pending = false;
        self.error = None;
        self.ring.queue_next_avail()
    }
}
