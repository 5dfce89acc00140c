//! The device itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use tracing::warn;

use super::spec::{
    ACK, ANSWER_SIZE, CONFIG_SIZE, ERROR, F_UNPLUGGED_INACCESSIBLE, MAX_CHAINS, MIXED, NACK, PLUG, PLUGGED,
    QUEUE_SIZES, REQUEST_SIZE, Request, STATE, UNPLUG, UNPLUG_ALL, UNPLUGGED, answer, config,
};
use super::state::Blocks;
use crate::holes::Ranges;
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault, Vectors, Wake, serve_chains};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// What may be plugged, and how much of it shall be; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is plugged at once: a power of two, no less than a page of the host.
    pub block: u64,
    /// Guest physical address of the first block, a multiple of `block`.
    pub address: u64,
    /// All blocks together, a multiple of `block`.
    pub size: u64,
    /// How much the guest shall have plugged.
    pub requested: u64,
}

/// A virtio memory device.
pub struct MemDevice {
    settings: Settings,
    blocks: Blocks,
    config: [u8; CONFIG_SIZE],
}

impl MemDevice {
    /// A device whose blocks are plugged as `notes` say.
    pub fn new(settings: Settings, notes: Option<File>) -> io::Result<Self> {
        let Settings { block, address, size, .. } = settings;
        let fits = block.is_power_of_two()
            && address.is_multiple_of(block)
            && size.is_multiple_of(block)
            && address.checked_add(size).is_some();
        let count = size.checked_div(block).and_then(|count| usize::try_from(count).ok());
        let Some(count) = count.filter(|count| *count > 0 && fits) else {
            let text = format!("{size} bytes at {address:#x} are not whole blocks of {block} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let blocks = Blocks::new(count, notes)?;
        let mut device = Self { settings, blocks, config: [0; CONFIG_SIZE] };
        device.reconfigure();
        Ok(device)
    }

    fn reconfigure(&mut self) {
        let Settings { block, address, size, requested } = self.settings;
        self.config = config(block, address, size, self.plugged(), requested);
    }

    /// Bytes.
    fn plugged(&self) -> u64 {
        self.blocks.plugged() * self.settings.block
    }

    /// Answers one chain; `freed` takes what has become a hole.
    fn serve_one(&mut self, chain: Chain<'_>, memory: &Memory, freed: &mut Ranges) -> u32 {
        let request = Vectors::readable(chain.clone(), memory).ok();
        let room = Vectors::writable(chain, memory).ok().filter(|room| room.len() >= ANSWER_SIZE);
        // Nothing is done of which the guest could not be told.
        let Some((request, room)) = request.zip(room) else { return 0 };
        let mut bytes = [0; REQUEST_SIZE];
        if request.copy_to(&mut bytes) < REQUEST_SIZE {
            return room.copy_from(&answer(ERROR, 0)) as u32;
        }
        let (kind, state) = self.carry_out(&Request::of(&bytes), memory, freed);
        room.copy_from(&answer(kind, state)) as u32
    }

    fn carry_out(&mut self, request: &Request, memory: &Memory, freed: &mut Ranges) -> (u16, u16) {
        let repeated = self.blocks.is_repeated(request);
        if request.kind == UNPLUG_ALL {
            return (self.unplug_all(memory, freed), 0);
        }
        let Some(blocks) = self.range(request) else { return (ERROR, 0) };
        let (plugged, of) = (self.blocks.plugged_of(blocks.clone()), blocks.len());
        match request.kind {
            PLUG if plugged > 0 && !repeated => (ERROR, 0),
            PLUG => {
                let new = (of - plugged) as u64 * self.settings.block;
                if self.plugged() + new > self.settings.requested {
                    return (NACK, 0);
                }
                (self.set(request, blocks, true), 0)
            }
            UNPLUG if plugged < of && !repeated => (ERROR, 0),
            UNPLUG => {
                let done = self.set(request, blocks.clone(), false);
                self.free(std::iter::once(blocks), memory, freed);
                (done, 0)
            }
            STATE => match plugged {
                0 => (ACK, UNPLUGGED),
                _ if plugged == of => (ACK, PLUGGED),
                _ => (ACK, MIXED),
            },
            _ => (ERROR, 0),
        }
    }

    fn unplug_all(&mut self, memory: &Memory, freed: &mut Ranges) -> u16 {
        let plugged: Vec<usize> = self.blocks.all_plugged().collect();
        // A repetition of it needs no note: it is the same whatever was done of it.
        let nothing = Request { kind: UNPLUG_ALL, address: 0, blocks: 0 };
        let done = self.set(&nothing, 0..self.blocks.count(), false);
        self.free(plugged.into_iter().map(|block| block..block + 1), memory, freed);
        done
    }

    /// The blocks of a request, if they are blocks of ours.
    fn range(&self, request: &Request) -> Option<Range<usize>> {
        let Settings { block, address, .. } = self.settings;
        let offset = request.address.checked_sub(address).filter(|offset| offset.is_multiple_of(block))?;
        let first = usize::try_from(offset / block).ok()?;
        let end = first.checked_add(usize::from(request.blocks))?;
        (request.blocks > 0 && end <= self.blocks.count()).then_some(first..end)
    }

    fn set(&mut self, request: &Request, blocks: Range<usize>, plugged: bool) -> u16 {
        let noted = self.blocks.set(request, blocks, plugged);
        self.reconfigure();
        match noted {
            Ok(()) => ACK,
            Err(error) => {
                warn!(%error, "the plugged blocks could not be noted");
                ERROR
            }
        }
    }

    fn free(&self, blocks: impl Iterator<Item = Range<usize>>, memory: &Memory, freed: &mut Ranges) {
        let Settings { block, address, .. } = self.settings;
        let mut ranges = Ranges::default();
        blocks.for_each(|run| ranges.add(address + run.start as u64 * block, run.len() as u64 * block));
        ranges.free(memory);
        freed.append(ranges);
    }
}

impl Device for MemDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, _queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let mut freed = Ranges::default();
        let served =
            serve_chains(ring, memory, MAX_CHAINS, |chain| self.serve_one(chain, memory, &mut freed));
        // That a block is empty is new to whoever copies memory.
        freed.each().for_each(|(start, length)| ring.wrote(start, length));
        served
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn save(&self) -> Vec<u8> {
        self.blocks.saved()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.blocks.restore(state)?;
        self.reconfigure();
        Ok(())
    }

    /// An order is the number of bytes that shall be plugged, or empty; the answer is how many are.
    fn order(&mut self, order: &[u8], _fd: Option<OwnedFd>, _wake: &mut Wake) -> Result<Vec<u8>, String> {
        if !order.is_empty() {
            let text = String::from_utf8_lossy(order);
            let bytes: u64 = text.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
            let Settings { block, size, .. } = self.settings;
            if bytes > size || !bytes.is_multiple_of(block) {
                return Err(format!(
                    "{bytes} bytes are not whole blocks of {block} bytes, {size} at the most"
                ));
            }
            self.settings.requested = bytes;
            self.reconfigure();
        }
        Ok(self.plugged().to_string().into_bytes())
    }
}
