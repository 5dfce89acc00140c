//! The device itself.

use rustix::rand::{GetRandomFlags, getrandom};
use tracing::warn;
use vm_memory::{Bytes, GuestAddress};

use super::spec::{MAX_CHAIN_BYTES, MAX_CHAINS, QUEUE_SIZES};
use super::state::Source;
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault, serve_chains};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// A virtio entropy device.
pub struct RngDevice {
    source: Source,
}

impl RngDevice {
    /// A device that takes its bytes from `source`.
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    /// Fills what is writable of `chain`, and returns how much that was.
    ///
    /// A buffer that is not in memory ends the chain; so does the limit.
    fn fill(&mut self, chain: Chain<'_>, memory: &Memory) -> u32 {
        let mut filled = 0;
        for descriptor in chain.writable() {
            let wanted = (descriptor.len() as usize).min(MAX_CHAIN_BYTES - filled);
            let written = self.fill_buffer(memory, descriptor.addr(), wanted);
            filled += written;
            if written < wanted {
                break;
            }
        }
        // Cannot truncate: at most MAX_CHAIN_BYTES.
        filled as u32
    }

    fn fill_buffer(&mut self, memory: &Memory, address: GuestAddress, wanted: usize) -> usize {
        let mut buffer = [0; 4096];
        let mut written = 0;
        while written < wanted {
            let length = buffer.len().min(wanted - written);
            let length = self.random(&mut buffer[..length]);
            let to = u64::try_from(written).ok().and_then(|offset| address.0.checked_add(offset));
            match to.map(|to| memory.write(&buffer[..length], GuestAddress(to))) {
                Some(Ok(count)) if count > 0 => written += count,
                _ => break,
            }
        }
        written
    }

    /// Fills the beginning of `buffer`, and returns how much: at least one byte, if any generator has one.
    fn random(&mut self, buffer: &mut [u8]) -> usize {
        if let Source::File(file) = &self.source {
            match rustix::io::retry_on_intr(|| rustix::io::read(file, &mut *buffer)) {
                Ok(count) if count > 0 => return count,
                end => {
                    // A guest that gets nothing asks again at once, and for ever.
                    warn!(?end, "the entropy source has run dry; the kernel's generator takes over");
                    self.source = Source::Kernel;
                }
            }
        }
        rustix::io::retry_on_intr(|| getrandom(&mut *buffer, GetRandomFlags::empty())).unwrap_or(0)
    }
}

impl Device for RngDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn serve(&mut self, _queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        serve_chains(ring, memory, MAX_CHAINS, |chain| self.fill(chain, memory))
    }
}
