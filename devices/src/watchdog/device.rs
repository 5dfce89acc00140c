//! The watchdog's queue and its clock.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use virtio_queue::QueueT;
use vm_memory::Bytes;

use super::spec::{MAX_CHAINS, PONG, QUEUE_SIZES};
use super::state::{PAUSE, RESUME, Watch};
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault, Wake, serve_chains};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// A watchdog.
pub struct WatchdogDevice {
    watch: Watch,
    limit: Duration,
    bite: OwnedFd,
}

impl WatchdogDevice {
    /// A watchdog that signals the eventfd `bite` when the guest has not been heard of for `limit`.
    pub fn new(bite: OwnedFd, limit: Duration) -> Self {
        Self { watch: Watch::Asleep, limit, bite }
    }

    /// Answers one ping; a chain without a buffer to answer into is none.
    fn answer(&mut self, chain: Chain<'_>, memory: &Memory) -> u32 {
        let buffer = chain.writable().find(|buffer| buffer.len() > 0);
        if buffer.is_none_or(|buffer| memory.write_obj(PONG, buffer.addr()).is_err()) {
            return 0;
        }
        self.watch.ping();
        1
    }
}

impl Device for WatchdogDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn serve(&mut self, _queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        // A queue that goes on where another process was: the guest has pinged that one, and may not live to ping us.
        if self.watch == Watch::Asleep && ring.get_queue().next_avail() != 0 {
            self.watch.ping();
        }
        serve_chains(ring, memory, MAX_CHAINS, |chain| self.answer(chain, memory))
    }

    fn deadline(&self) -> Option<Instant> {
        self.watch.end(self.limit)
    }

    fn elapsed(&mut self, _wake: &mut Wake) {
        warn!("the guest has not been heard of for {:?}", self.limit);
        self.watch = Watch::Bitten;
        if let Err(error) = rustix::io::write(&self.bite, &1u64.to_ne_bytes()) {
            error!(%error, "nobody hears the watchdog");
        }
    }

    fn order(&mut self, order: &[u8], _fd: Option<OwnedFd>, _wake: &mut Wake) -> Result<Vec<u8>, String> {
        match order {
            PAUSE => self.watch.pause(),
            RESUME => self.watch.resume(),
            _ => return Err("a watchdog can be told to pause and to resume".into()),
        }
        Ok(Vec::new())
    }

    fn save(&self) -> Vec<u8> {
        // When it was last heard of means nothing elsewhere.
        vec![u8::from(matches!(self.watch, Watch::Awake(_) | Watch::Held))]
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.watch = match state {
            [] | [0] => Watch::Asleep,
            [1] => Watch::Awake(Instant::now()),
            _ => return Err("a watchdog's state is one byte, 0 or 1".into()),
        };
        Ok(())
    }
}
