//! One queue of a device process, and the loop over its descriptor chains.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use thiserror::Error;
use vhost_user_backend::VringState;
use virtio_queue::{DescriptorChain, Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use super::inflight::Area;

/// Guest memory as mapped in a device process.
pub type Memory = GuestMemoryMmap<()>;

type State = VringState<GuestMemoryAtomic<Memory>>;

/// What a queue has carried since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Chains given back.
    pub requests: u64,
    /// Bytes written into them.
    pub to_guest: u64,
    /// Bytes that could be read from them: an allegation of the guest.
    pub from_guest: u64,
    /// Times that the guest has broken it.
    pub faults: u64,
}

/// A queue with its kick and call eventfds, and a note of what is in flight.
pub struct Ring<'a> {
    state: MutexGuard<'a, State>,
    in_flight: Option<&'a mut Area>,
    tally: Option<&'a mut Tally>,
    /// Readable bytes of the chain that is worked on.
    readable: u64,
    /// Where what the device may write is noted, while that is logged.
    writes: Option<&'a mut Writes>,
}

/// Ranges of guest memory: first address and bytes, allegations of the guest.
pub(super) type Writes = Vec<(u64, u64)>;

impl<'a> Ring<'a> {
    pub(crate) fn new(state: MutexGuard<'a, State>) -> Self {
        Self { state, in_flight: None, tally: None, readable: 0, writes: None }
    }

    pub(super) fn noting(self, in_flight: Option<&'a mut Area>) -> Self {
        Self { in_flight, ..self }
    }

    pub(super) fn counting(self, tally: &'a mut Tally) -> Self {
        Self { tally: Some(tally), ..self }
    }

    pub(super) fn logging(self, writes: Option<&'a mut Writes>) -> Self {
        Self { writes, ..self }
    }

    /// Notes that the chain is about to be worked on.
    fn take(&mut self, chain: &Chain<'_>) {
        if let Some(area) = &mut self.in_flight {
            area.take(chain.head_index());
        }
        if self.tally.is_some() {
            self.readable = chain.clone().readable().map(|buffer| u64::from(buffer.len())).sum();
        }
        self.will_write(chain);
    }

    /// Whether what the device writes is noted.
    pub fn is_logging(&self) -> bool {
        self.writes.is_some()
    }

    /// Notes that what is writable of the chain may be written before serving ends: for a device that takes chains by itself.
    pub fn will_write(&mut self, chain: &Chain<'_>) {
        if let Some(writes) = &mut self.writes {
            let buffers = chain.clone().writable();
            writes.extend(buffers.map(|buffer| (buffer.addr().0, u64::from(buffer.len()))));
        }
    }

    /// Notes that so many bytes were written, or will be before serving ends.
    pub fn wrote(&mut self, address: GuestAddress, length: u64) {
        if let Some(writes) = &mut self.writes {
            writes.push((address.0, length));
        }
    }

    /// Notes that the chain at `head` was left alone.
    fn put_back(&mut self, head: u16) {
        if let Some(area) = &mut self.in_flight {
            area.put_back(head);
        }
    }

    /// Counts a chain that is given back with so many bytes written.
    pub(super) fn count_used(&mut self, written: u32) {
        if let Some(tally) = &mut self.tally {
            tally.requests += 1;
            tally.to_guest = tally.to_guest.wrapping_add(written.into());
            tally.from_guest = tally.from_guest.wrapping_add(std::mem::take(&mut self.readable));
        }
    }

    /// Gives the chain at `head` back to the driver, with so many bytes written.
    pub fn add_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.count_used(written);
        let Some(area) = &mut self.in_flight else { return self.state.add_used(head, written) };
        area.finish(head);
        self.state.add_used(head, written)?;
        area.finished(head, self.state.get_queue().next_used());
        Ok(())
    }
}

impl Deref for Ring<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Ring<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// A descriptor chain, every byte of it an allegation of the guest.
pub type Chain<'a> = DescriptorChain<&'a Memory>;

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing until the next kick.
    Idle,
    /// Serve again without waiting for one.
    More,
}

/// Why a ring cannot be served any further; the guest is at fault.
#[derive(Debug, Error)]
pub enum RingFault {
    /// The rings contradict themselves or are not in memory.
    #[error("the ring is broken")]
    Queue(#[from] QueueError),
    /// There are buffers available that cannot be read.
    #[error("the available ring cannot be read")]
    Unreadable,
    /// Nobody can kick.
    #[error("the kick eventfd cannot be read")]
    Kick(#[source] io::Error),
    /// The guest could not be interrupted.
    #[error("the call eventfd cannot be written")]
    Call(#[source] io::Error),
}

/// Serves up to `budget` chains of `ring` by `serve_one`, which returns how many bytes it wrote.
///
/// The guest is interrupted if it wants to be, and notifications are on when [`Progress::Idle`] is returned.
pub fn serve_chains(
    ring: &mut Ring,
    memory: &Memory,
    budget: usize,
    mut serve_one: impl FnMut(Chain<'_>) -> u32,
) -> Result<Progress, RingFault> {
    serve_while(ring, memory, budget, |chain| Some(serve_one(chain)))
}

/// As [`serve_chains`], for a device that may have to wait: a chain that `serve_one` answers with `None` stays available,
/// and the device sees to it that the queue is served again ([`Wake::queue`](super::Wake::queue)).
pub fn serve_while(
    ring: &mut Ring,
    memory: &Memory,
    budget: usize,
    mut serve_one: impl FnMut(Chain<'_>) -> Option<u32>,
) -> Result<Progress, RingFault> {
    let mut total = 0;
    let progress = serve_rounds(ring, budget, |ring, left| {
        let mut served = 0;
        while served < left {
            let queue = ring.get_queue_mut();
            let position = queue.next_avail();
            let Some(chain) = queue.iter(memory)?.next() else { break };
            let head = chain.head_index();
            ring.take(&chain);
            let Some(written) = serve_one(chain) else {
                ring.put_back(head);
                ring.get_queue_mut().set_next_avail(position);
                return Ok(Round { served, waits: true });
            };
            ring.add_used(head, written)?;
            served += 1;
            total += 1;
        }
        Ok(Round { served, waits: false })
    })?;
    if total > 0 && ring.needs_notification()? {
        ring.signal_used_queue().map_err(RingFault::Call)?;
    }
    Ok(progress)
}

/// What one look through the available ring has come to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Chains that were used.
    pub served: usize,
    /// The device has nothing to do with more of them for now.
    pub waits: bool,
}

/// As [`serve_while`], for a device that takes several chains at a time: `round` uses as many as there are and it can, up to the
/// number that it is given or a few more. Interrupting the guest is left to the caller.
pub fn serve_rounds(
    ring: &mut Ring,
    budget: usize,
    mut round: impl FnMut(&mut Ring, usize) -> Result<Round, RingFault>,
) -> Result<Progress, RingFault> {
    let mut total = 0;
    // The ring has said that there is something since it was last looked through.
    let mut announced = false;
    loop {
        let Round { served, waits } = round(ring, budget - total)?;
        total += served;
        if total >= budget {
            return Ok(Progress::More);
        }
        if waits {
            return Ok(Progress::Idle);
        }
        if announced && served == 0 {
            // Something is available, and yet there was no chain.
            return Err(RingFault::Unreadable);
        }
        // What the guest makes available after the last look is seen here.
        announced = ring.enable_notification()?;
        if !announced {
            return Ok(Progress::Idle);
        }
    }
}
