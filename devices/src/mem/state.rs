//! Which blocks are plugged, in memory and in a file that outlives the process.
//!
//! ```text
//!   0   the last request that changed something, as the guest sent it (24 bytes; zeros: none yet)
//!   32  one bit a block, the lowest first; set where the block is plugged
//! ```
//! A request is noted before its blocks are changed. Whoever takes up a dead process's queue is given the request that was in
//! flight once more; by the note it knows that some of its blocks, or all, may be changed already.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::fstat;

use super::spec::{REQUEST_SIZE, Request};

/// Where the bits begin.
const BITS: usize = 32;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Blocks {
    bits: Vec<u8>,
    count: usize,
    notes: Option<File>,
    /// What a predecessor was about to do, or had just done, when it died.
    unsure: Option<Request>,
}

impl Blocks {
    /// `count` blocks, plugged as `notes` say; an empty file says that none is.
    pub fn new(count: usize, notes: Option<File>) -> io::Result<Self> {
        let mut bits = vec![0; count.div_ceil(8)];
        let mut unsure = None;
        if let Some(file) = notes.as_ref().filter(|file| fstat(file).is_ok_and(|found| found.st_size > 0)) {
            let mut note = [0; REQUEST_SIZE];
            file.read_exact_at(&mut note, 0)?;
            file.read_exact_at(&mut bits, BITS as u64)?;
            unsure = Some(Request::of(&note)).filter(|request| request.blocks > 0);
        } else if let Some(file) = &notes {
            file.write_all_at(&bits, BITS as u64)?;
        }
        Ok(Self { bits, count, notes, unsure })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many are plugged.
    pub fn plugged(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// How many of these are; the range is within [`Blocks::count`].
    pub fn plugged_of(&self, blocks: Range<usize>) -> usize {
        blocks.filter(|&block| self.is_plugged(block)).count()
    }

    /// All that are.
    pub fn all_plugged(&self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(|&block| self.is_plugged(block))
    }

    fn is_plugged(&self, block: usize) -> bool {
        self.bits[block / 8] >> (block % 8) & 1 == 1
    }

    /// Whether this is the request of which a predecessor may have done some; asked of the first request alone.
    pub fn is_repeated(&mut self, request: &Request) -> bool {
        self.unsure.take().is_some_and(|unsure| unsure == *request)
    }

    /// Plugs these, or unplugs them, as `request` says; the range is within [`Blocks::count`].
    pub fn set(&mut self, request: &Request, blocks: Range<usize>, plugged: bool) -> io::Result<()> {
        if let Some(file) = &self.notes {
            file.write_all_at(&request.bytes(), 0)?;
        }
        for block in blocks.clone() {
            let bit = 1 << (block % 8);
            self.bits[block / 8] =
                if plugged { self.bits[block / 8] | bit } else { self.bits[block / 8] & !bit };
        }
        let bytes = blocks.start / 8..blocks.end.div_ceil(8);
        match &self.notes {
            Some(file) => file.write_all_at(&self.bits[bytes.clone()], (BITS + bytes.start) as u64),
            None => Ok(()),
        }
    }

    /// As a snapshot has it.
    pub fn saved(&self) -> Vec<u8> {
        self.bits.clone()
    }

    /// Takes what a snapshot has, which may have been garbled since.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        if saved.len() != self.bits.len() {
            let wanted = self.bits.len();
            return Err(format!("{} bytes tell nothing of {} blocks ({wanted} do)", saved.len(), self.count));
        }
        let spare = saved.len() * 8 - self.count;
        if saved.last().is_some_and(|last| last.leading_zeros() < spare as u32) {
            return Err(format!("blocks behind the last of {} are plugged", self.count));
        }
        self.bits.copy_from_slice(saved);
        let noted = self.notes.as_ref().map_or(Ok(()), |file| file.write_all_at(&self.bits, BITS as u64));
        noted.map_err(|error| format!("the plugged blocks could not be noted: {error}"))
    }
}
