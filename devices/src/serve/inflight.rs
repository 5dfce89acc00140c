//! The in-flight region: which chains a device has taken and not yet used, kept where its death does not reach
//! (vhost-user specification, "Inflight I/O tracking", for split virtqueues).
//!
//! ```text
//!   region   one area per queue:  ┌ features │ version │ size │ last batch │ used index ┐┌ 16 bytes per descriptor … ┐
//!
//!   take a chain      counter, inflight = 1
//!   use a chain       next, last batch ─► (the ring's used index) ─► inflight = 0, used index
//!   successor         used index behind the ring's? the last batch was used: inflight = 0, used index
//!                     go on at the used index: chains in flight come first there
//! ```
//! Our devices use the chains of a queue in the order in which they were made available, so what is in flight is always
//! the next of the available ring, and going on behind the last used one does it again. A region in which something
//! else is in flight was kept by another back end that uses chains in any order; it is refused, not guessed at.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{Error, Result};
use vm_memory::{Bytes, FileOffset, MmapRegion};

const HEADER: usize = 16;
const VERSION: usize = 8;
const DESCRIPTORS: usize = 10;
const LAST_BATCH: usize = 12;
const USED_INDEX: usize = 14;

const ENTRY: usize = 16;
const IN_FLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// Of which there is one so far; 0 is a region that nobody has used.
const VERSION_1: u16 = 1;
/// The areas of different queues share no cache line.
const ALIGNMENT: usize = 64;
/// The largest region that is mapped: 1,024 descriptors are 16 KiB, and there are at most 64 queues.
const MAX_REGION: u64 = 64 << 20;

fn area_size(queue_size: u16) -> usize {
    (HEADER + ENTRY * usize::from(queue_size)).next_multiple_of(ALIGNMENT)
}

/// Makes a region for `queues` queues of `size` descriptors each, all zeros.
pub(super) fn make(queues: u16, size: u16) -> Result<(VhostUserInflight, File)> {
    let bytes = (area_size(size) * usize::from(queues)) as u64;
    if queues == 0 || size == 0 || bytes > MAX_REGION {
        return Err(Error::InvalidParam);
    }
    let failed = |error: rustix::io::Errno| Error::ReqHandlerError(error.into());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("inflight", flags).map_err(failed)?);
    file.set_len(bytes).map_err(Error::ReqHandlerError)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(failed)?;
    Ok((VhostUserInflight::new(bytes, 0, queues, size), file))
}

/// Maps a region, and returns the area of each queue.
pub(super) fn map(told: &VhostUserInflight, file: File) -> Result<Vec<Area>> {
    let (queues, size) = (told.num_queues, told.queue_size);
    let wanted = (area_size(size) * usize::from(queues)) as u64;
    let end = told.mmap_offset.checked_add(told.mmap_size).ok_or(Error::InvalidParam)?;
    // Beyond the end of its file a mapping is a SIGBUS.
    let length = fstat(&file).map_err(|error| Error::ReqHandlerError(error.into()))?.st_size;
    let sound = queues > 0 && size > 0 && (wanted..=MAX_REGION).contains(&told.mmap_size);
    if !sound || u64::try_from(length).is_ok_and(|length| end > length) {
        return Err(Error::InvalidParam);
    }
    // No more than MAX_REGION.
    let mapping = MmapRegion::from_file(FileOffset::new(file, told.mmap_offset), told.mmap_size as usize);
    let mapping = Arc::new(mapping.map_err(|error| Error::ReqHandlerError(std::io::Error::other(error)))?);
    let stride = told.mmap_size as usize / usize::from(queues);
    let area = |index| Area { mapping: Arc::clone(&mapping), start: stride * index, size, counter: 0 };
    Ok((0..usize::from(queues)).map(area).collect())
}

/// What is in flight of one queue.
#[derive(Debug)]
pub(super) struct Area {
    mapping: Arc<MmapRegion>,
    start: usize,
    size: u16,
    counter: u64,
}

impl Area {
    /// Takes up what a predecessor has left, and returns the chains that are in flight, the oldest first.
    pub fn take_up(&mut self, used_index: u16) -> Result<Vec<u16>> {
        let version: u16 = self.load(VERSION);
        if version == 0 {
            self.store(VERSION, VERSION_1);
            self.store(DESCRIPTORS, self.size);
            self.store(USED_INDEX, used_index);
            return Ok(Vec::new());
        }
        if version != VERSION_1 || self.load::<u16>(DESCRIPTORS) != self.size {
            return Err(Error::InvalidParam);
        }
        if self.load::<u16>(USED_INDEX) != used_index {
            // It died between telling the driver and taking note. We tell of one chain at a time, others of several.
            let told = used_index.wrapping_sub(self.load(USED_INDEX)).min(self.size);
            let mut head = self.load::<u16>(LAST_BATCH);
            for _ in 0..told {
                self.clear(head);
                head = if head < self.size { self.load(self.entry(head) + NEXT) } else { break };
            }
            self.store(USED_INDEX, used_index);
        }
        let mut in_flight: Vec<(u64, u16)> = (0..self.size)
            .filter(|head| self.load::<u8>(self.entry(*head) + IN_FLIGHT) == 1)
            .map(|head| (self.load(self.entry(head) + COUNTER), head))
            .collect();
        in_flight.sort_unstable();
        self.counter = in_flight.last().map_or(0, |(counter, _)| counter + 1);
        Ok(in_flight.into_iter().map(|(_, head)| head).collect())
    }

    /// The chain at `head` is about to be worked on.
    pub fn take(&mut self, head: u16) {
        if head < self.size {
            self.store(self.entry(head) + COUNTER, self.counter);
            self.store(self.entry(head) + IN_FLIGHT, 1u8);
            self.counter += 1;
        }
    }

    /// The chain at `head` was left alone after all.
    pub fn put_back(&mut self, head: u16) {
        self.clear(head);
    }

    /// The chain at `head` is about to be told to the driver.
    pub fn finish(&mut self, head: u16) {
        if head < self.size {
            self.store(self.entry(head) + NEXT, self.load::<u16>(LAST_BATCH));
            self.store(LAST_BATCH, head);
        }
    }

    /// The driver was told, and the used index is now this.
    pub fn finished(&mut self, head: u16, used_index: u16) {
        self.clear(head);
        self.store(USED_INDEX, used_index);
    }

    fn clear(&mut self, head: u16) {
        if head < self.size {
            self.store(self.entry(head) + IN_FLIGHT, 0u8);
        }
    }

    fn entry(&self, head: u16) -> usize {
        HEADER + ENTRY * usize::from(head)
    }

    fn load<T: vm_memory::AtomicAccess + Default>(&self, offset: usize) -> T {
        // Within the mapping, and aligned: `map` has seen to it.
        self.slice().load(self.start + offset, Ordering::Acquire).unwrap_or_default()
    }

    fn store<T: vm_memory::AtomicAccess>(&self, offset: usize, value: T) {
        let stored = self.slice().store(value, self.start + offset, Ordering::Release);
        debug_assert!(stored.is_ok());
    }

    fn slice(&self) -> vm_memory::VolatileSlice<'_> {
        vm_memory::VolatileMemory::as_volatile_slice(&*self.mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u16; 0] = [];

    fn area() -> (VhostUserInflight, File, Area) {
        let (told, file) = make(2, 16).unwrap();
        let area = map(&told, file.try_clone().unwrap()).unwrap().remove(1);
        (told, file, area)
    }

    fn successor(told: &VhostUserInflight, file: &File) -> Area {
        map(told, file.try_clone().unwrap()).unwrap().remove(1)
    }

    #[test]
    fn a_successor_finds_what_was_taken_and_not_used() {
        let (told, file, mut first) = area();
        assert_eq!(first.take_up(0).unwrap(), NONE);
        for head in [3, 1, 2] {
            first.take(head);
        }
        first.finish(1);
        first.finished(1, 1);
        let mut second = successor(&told, &file);
        assert_eq!(second.take_up(1).unwrap(), [3, 2]);
        second.take(1);
        assert_eq!(successor(&told, &file).take_up(1).unwrap(), [3, 2, 1]);
    }

    #[test]
    fn a_chain_that_the_driver_was_told_of_is_not_in_flight_whatever_was_noted_since() {
        let (told, file, mut first) = area();
        first.take_up(7).unwrap();
        first.take(5);
        first.finish(5);
        // Told, so that the ring's index is one further; then dead.
        assert_eq!(successor(&told, &file).take_up(8).unwrap(), NONE);
        assert_eq!(successor(&told, &file).take_up(8).unwrap(), NONE);
    }

    #[test]
    fn a_chain_that_was_done_but_not_told_is_in_flight() {
        let (told, file, mut first) = area();
        first.take_up(7).unwrap();
        first.take(5);
        first.finish(5);
        assert_eq!(successor(&told, &file).take_up(7).unwrap(), [5]);
    }

    #[test]
    fn regions_that_are_none_are_refused() {
        let (told, file, _) = area();
        let with = |change: fn(&mut VhostUserInflight)| {
            let mut other = told;
            change(&mut other);
            map(&other, file.try_clone().unwrap()).map(drop)
        };
        with(|_| ()).unwrap();
        with(|told| told.mmap_size += 64).unwrap_err();
        with(|told| told.mmap_offset = u64::MAX).unwrap_err();
        with(|told| told.mmap_size = u64::MAX).unwrap_err();
        with(|told| told.num_queues = 0).unwrap_err();
        with(|told| told.num_queues = u16::MAX).unwrap_err();
        with(|told| told.queue_size = 1024).unwrap_err();
        assert!(make(0, 16).is_err() && make(u16::MAX, u16::MAX).is_err());
    }

    #[test]
    fn a_region_that_holds_nonsense_is_refused_and_heads_that_are_none_do_nothing() {
        let (told, file, mut first) = area();
        first.take(9999);
        first.finish(9999);
        first.finished(9999, 1);
        first.store(VERSION, 77u16);
        successor(&told, &file).take_up(0).unwrap_err();
    }
}
