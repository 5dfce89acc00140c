//! Gives pages of the guest back to the host: a hole in the file of its memory, which has neither data nor tags.
//!
//! Which pages is an allegation of the guest's. A range is cut to whole pages of the host within one region of the memory
//! that this process was given, which is RAM and nothing else; what is left of it is not touched.

use std::ops::Range;

use rustix::fs::{FallocateFlags, fallocate};
use tracing::debug;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::serve::Memory;
use crate::sys::page_size;

/// Guest-physical ranges that adjoin, brought together before the kernel is asked.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range.
    pub fn add(&mut self, start: u64, length: u64) {
        let Some(end) = start.checked_add(length) else { return };
        match self.0.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(last) if last.start == end => last.start = start,
            _ => self.0.push(start..end),
        }
    }

    /// Adds the ranges of another.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// First address and bytes of each.
    pub fn each(&self) -> impl Iterator<Item = (GuestAddress, u64)> {
        self.0.iter().map(|range| (GuestAddress(range.start), range.end - range.start))
    }

    /// Frees all of them; answers how many bytes that were.
    pub fn free(&self, memory: &Memory) -> u64 {
        let page = page_size();
        self.0.iter().map(|range| free(memory, range, page)).sum()
    }
}

fn free(memory: &Memory, range: &Range<u64>, page: u64) -> u64 {
    let Some(region) = memory.find_region(GuestAddress(range.start)) else { return 0 };
    let Some(file) = region.file_offset() else { return 0 };
    let base = region.start_addr().raw_value();
    let start = (range.start - base).next_multiple_of(page);
    let end = (range.end - base).min(region.len());
    let length = end.saturating_sub(start) / page * page;
    if length == 0 {
        return 0;
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file.file(), hole, file.start() + start, length) {
        Ok(()) => length,
        Err(error) => {
            // The guest loses nothing by it, and the host nothing that it had.
            debug!(%error, start, length, "pages could not be freed");
            0
        }
    }
}
