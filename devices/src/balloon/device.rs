//! The device itself.

use std::os::fd::OwnedFd;

use vm_memory::{Bytes, GuestAddress};

use super::spec::{
    ACTUAL, DEFLATE, F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_REPORTING, F_STATS_VQ, INFLATE, MAX_CHAINS,
    MAX_NUMBERS, PAGE, REPORTING, queue_sizes,
};
use super::state::State;
use crate::holes::Ranges;
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault, Wake, serve_chains};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// How a balloon is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that the guest is asked to give back.
    pub size: u64,
    /// Whether the guest takes memory back rather than kill a process.
    pub deflate_on_oom: bool,
    /// Whether the guest reports pages that are free.
    pub free_page_reporting: bool,
}

/// A virtio memory balloon.
pub struct BalloonDevice {
    settings: Settings,
    state: State,
}

impl BalloonDevice {
    /// A balloon that nothing is in yet.
    pub fn new(settings: Settings) -> Self {
        let mut state = State::default();
        state.ask(settings.size);
        Self { settings, state }
    }
}

/// Frees the pages whose numbers are in `chain`, and notes them; nothing is written to it.
fn inflate(chain: Chain<'_>, memory: &Memory, freed: Option<&mut Ranges>) -> u32 {
    let mut ranges = Ranges::default();
    let mut left = MAX_NUMBERS;
    for descriptor in chain.readable() {
        let count = (descriptor.len() as usize / 4).min(left);
        left -= count;
        for index in 0..count as u64 {
            let number = descriptor.addr().0.checked_add(4 * index).map(GuestAddress);
            let Some(Ok(number)) = number.map(|at| memory.read_obj::<u32>(at)) else { break };
            ranges.add(u64::from(u32::from_le(number)) * PAGE, PAGE);
        }
    }
    ranges.free(memory);
    if let Some(freed) = freed {
        freed.append(ranges);
    }
    0
}

/// Frees the buffers of `chain` themselves; they are not written to.
fn report(chain: Chain<'_>, memory: &Memory) -> u32 {
    let mut ranges = Ranges::default();
    for descriptor in chain.writable() {
        ranges.add(descriptor.addr().0, descriptor.len().into());
    }
    ranges.free(memory);
    0
}

impl Device for BalloonDevice {
    fn features(&self) -> u64 {
        let mut features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;
        if self.settings.deflate_on_oom {
            features |= F_DEFLATE_ON_OOM;
        }
        if self.settings.free_page_reporting {
            features |= F_STATS_VQ | F_FREE_PAGE_HINT | F_REPORTING;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        queue_sizes(self.settings.free_page_reporting)
    }

    fn config(&self) -> &[u8] {
        &self.state.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.state.write(offset, data);
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        match queue {
            INFLATE => {
                let mut freed = ring.is_logging().then(Ranges::default);
                let served =
                    serve_chains(ring, memory, MAX_CHAINS, |chain| inflate(chain, memory, freed.as_mut()));
                // That a page is empty is new, too.
                freed.iter().flat_map(Ranges::each).for_each(|(start, length)| ring.wrote(start, length));
                served
            }
            // The pages come back when they are touched.
            DEFLATE => serve_chains(ring, memory, MAX_CHAINS, |_| 0),
            REPORTING => serve_chains(ring, memory, MAX_CHAINS, |chain| report(chain, memory)),
            // Statistics are the driver's answer to its buffer being used, and hints to a question: we ask for neither.
            _ => Ok(Progress::Idle),
        }
    }

    /// What the driver has written: it does so when it changes, and not again.
    fn save(&self) -> Vec<u8> {
        self.state.config[ACTUAL].to_vec()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        if state.len() != ACTUAL.len() {
            return Err(format!("{} bytes are not a balloon's state", state.len()));
        }
        self.state.config[ACTUAL].copy_from_slice(state);
        Ok(())
    }

    /// An order is the number of bytes that the guest is to give back, or empty; the answer is how many it says it has.
    fn order(&mut self, order: &[u8], _fd: Option<OwnedFd>, _wake: &mut Wake) -> Result<Vec<u8>, String> {
        if !order.is_empty() {
            let text = String::from_utf8_lossy(order);
            let bytes = text.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
            self.state.ask(bytes);
        }
        Ok(self.state.given().to_string().into_bytes())
    }
}
