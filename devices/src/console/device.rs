//! The console's queues.

use std::os::fd::OwnedFd;

use rustix::event::PollFlags;
use vm_memory::{Address, Bytes};

use super::ends::{Ends, Line};
use super::spec::{CONFIG_SIZE, F_SIZE, MAX_CHAIN_BYTES, MAX_CHAINS, QUEUE_SIZES, RECEIVE};
use super::state::Window;
use crate::serve::{Chain, Device, Memory, Progress, Ring, RingFault, Wake, Watch, serve_while};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// The watched descriptors.
const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
const CLIENTS: u64 = 2;

/// A console with one port.
pub struct ConsoleDevice {
    line: Line,
    config: [u8; CONFIG_SIZE],
}

impl ConsoleDevice {
    /// A console that leads to `ends`, on a terminal of that size.
    pub fn new(ends: Ends, window: Window) -> Self {
        Self { line: Line::new(ends), config: window.config() }
    }

    /// Gives the guest what was typed, as far as it has room; queues without input are left alone.
    fn give(&mut self, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let input = self.line.input();
        serve_while(ring, memory, MAX_CHAINS, |chain| {
            if input.is_empty() {
                return None;
            }
            let (head, _) = input.as_slices();
            let written = write(chain, memory, head);
            input.drain(..written);
            // Cannot truncate: no more than waited.
            Some(written as u32)
        })
    }
}

impl Device for ConsoleDevice {
    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        if queue == RECEIVE {
            return self.give(ring, memory);
        }
        let line = &mut self.line;
        // Linux waits for each of its writes in a loop that does nothing else: every chain is taken at once, and what
        // there is no room for is lost.
        let progress = serve_while(ring, memory, MAX_CHAINS, |chain| {
            read(chain, memory, |bytes| line.push(bytes));
            Some(0)
        });
        line.flush();
        progress
    }

    fn watches<'a>(&'a self, watches: &mut Vec<Watch<'a>>) {
        let wanted = [
            (self.line.thirsty(), PollFlags::IN, INPUT),
            (self.line.blocked(), PollFlags::OUT, OUTPUT),
            (self.line.listener(), PollFlags::IN, CLIENTS),
        ];
        watches.extend(
            wanted.into_iter().filter_map(|(fd, flags, token)| Some(Watch { fd: fd?, flags, token })),
        );
    }

    fn ready(&mut self, token: u64, _flags: PollFlags, wake: &mut Wake) {
        match token {
            INPUT => {
                self.line.fill();
                wake.queue(RECEIVE);
            }
            OUTPUT => self.line.flush(),
            _ => self.line.accept(),
        }
    }

    /// The one order there is: the terminal has another size now.
    fn order(&mut self, order: &[u8], _fd: Option<OwnedFd>, _wake: &mut Wake) -> Result<Vec<u8>, String> {
        let window = Window::from_order(order).ok_or("a window is columns and rows, 16 bits each")?;
        self.config = window.config();
        Ok(Vec::new())
    }
}

/// Fills what is writable of `chain` from `bytes`; answers how many fitted. A buffer outside memory ends the chain.
fn write(chain: Chain<'_>, memory: &Memory, bytes: &[u8]) -> usize {
    let mut written = 0;
    for descriptor in chain.writable() {
        let wanted = (descriptor.len() as usize).min(bytes.len() - written);
        if memory.write_slice(&bytes[written..written + wanted], descriptor.addr()).is_err() {
            break;
        }
        written += wanted;
    }
    written
}

/// Hands on what is readable of `chain`, piece by piece. A buffer outside memory ends the chain; so does the limit.
fn read(chain: Chain<'_>, memory: &Memory, mut take: impl FnMut(&[u8])) {
    let mut left = MAX_CHAIN_BYTES;
    let mut piece = [0; 4096];
    for descriptor in chain.readable() {
        let length = (descriptor.len() as usize).min(left);
        for start in (0..length).step_by(piece.len()) {
            let piece = &mut piece[..(length - start).min(4096)];
            let address = descriptor.addr().checked_add(start as u64);
            if address.is_none_or(|address| memory.read_slice(piece, address).is_err()) {
                return;
            }
            take(piece);
        }
        left -= length;
    }
}
