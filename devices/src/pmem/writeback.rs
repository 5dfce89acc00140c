//! Brings an image up to date with the memory that is a copy of it.
//!
//! ```text
//!   for each chunk of memory that is no hole:
//!      read it ─► hash ─┬─ as at the last flush ─► next
//!                       └─ another, or none yet ─► read the image ─► write the pages that differ ─► keep the hash
//!   then fdatasync
//! ```
//! Nobody tells what was written since the last flush: KVM could for the guest's own stores, but device processes write
//! pages of this memory too, as buffers of other devices, and a page that is missed is lost data. So memory itself is
//! asked. It is read through its file, where a hole reads as zeros and stays one.
//!
//! A store that happened before the flush was asked for is in what is read, and a later one changes the hash the next
//! time. Of memory that comes out of a snapshot the holes are looked at, too, the first time: the image may have been
//! written to since, and zeros are as good as anything else that the guest has flushed. Chunks are read whole before they are hashed and written, so a store meanwhile changes neither.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;
use tracing::trace;
use xxhash_rust::xxh3::xxh3_64;

use super::state::sync;

/// Memory that is read, hashed and compared at once; the unit of what is remembered.
const CHUNK: usize = 64 << 10;
/// What is written at least.
const PAGE: usize = 4096;
/// Chunks that are looked at before others get their turn: 16 MiB, some milliseconds.
const BUDGET: usize = 256;

/// An image, the memory that is a copy of it, and what the two had in common last.
#[derive(Debug)]
pub struct WriteBack {
    image: File,
    memory: File,
    size: u64,
    /// Of each chunk, the hash of what memory and image hold; 0 is not known.
    hashes: Vec<u64>,
    /// How far the flush under way has come.
    at: u64,
    /// Holes of memory may be something else in the image.
    whole: bool,
    chunk: Box<[u8; CHUNK]>,
    other: Box<[u8; CHUNK]>,
    written: u64,
}

impl WriteBack {
    /// Copies of `size` bytes, of which nothing is known yet but that what is a hole in memory is zero in the image;
    /// `whole`: not even that.
    pub fn new(image: File, memory: File, size: u64, whole: bool) -> Self {
        // The size is that of memory which exists, and was mapped.
        let chunks = usize::try_from(size.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        let buffer = || Box::new([0; CHUNK]);
        Self {
            image,
            memory,
            size,
            hashes: vec![0; chunks],
            at: 0,
            whole,
            chunk: buffer(),
            other: buffer(),
            written: 0,
        }
    }

    /// Bytes written to the image so far.
    #[cfg(test)]
    fn written(&self) -> u64 {
        self.written
    }

    /// Forgets the flush under way: the next begins anew.
    pub(super) fn abandon(&mut self) {
        self.at = 0;
    }

    /// Does some of the work of a flush; answers how the flush ended, if it did. The next call begins another.
    pub(super) fn flush_some(&mut self) -> Option<io::Result<()>> {
        let ended = self.look_at_some().transpose()?;
        self.at = 0;
        self.whole &= ended.is_err();
        trace!(bytes = self.written, "written back so far");
        Some(ended.and_then(|()| sync(&self.image)))
    }

    fn look_at_some(&mut self) -> io::Result<Option<()>> {
        if self.at == 0 {
            self.check_image()?;
        }
        for _ in 0..BUDGET {
            let Some(chunk) = self.next_chunk()? else { return Ok(Some(())) };
            self.look_at(chunk)?;
            self.at = (chunk + 1) * CHUNK as u64;
        }
        Ok(None)
    }

    /// An image that was cut short has lost data that no flush brings back.
    fn check_image(&self) -> io::Result<()> {
        let stat = rustix::fs::fstat(&self.image)?;
        // A block device has no length here, and does not shrink.
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && u64::try_from(stat.st_size).is_ok_and(|length| length < self.size) {
            return Err(io::Error::other("the image has become shorter than the memory"));
        }
        Ok(())
    }

    /// The next chunk, from where the flush is, that has to be looked at: one that is not all hole.
    fn next_chunk(&self) -> io::Result<Option<u64>> {
        if self.whole {
            return Ok((self.at < self.size).then_some(self.at / CHUNK as u64));
        }
        match rustix::fs::seek(&self.memory, SeekFrom::Data(self.at)) {
            Ok(data) if data < self.size => Ok(Some(data / CHUNK as u64)),
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn look_at(&mut self, index: u64) -> io::Result<()> {
        let start = index * CHUNK as u64;
        let length = usize::try_from(self.size - start).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = &mut self.chunk[..length];
        self.memory.read_exact_at(chunk, start)?;
        // 0 says that nothing is known; whose hash it is by chance is compared each time.
        let hash = xxh3_64(chunk);
        // Within the vector, since the chunk begins below `size`.
        let known = &mut self.hashes[index as usize];
        if *known == hash && hash != 0 {
            return Ok(());
        }
        let other = &mut self.other[..length];
        self.image.read_exact_at(other, start)?;
        for ((at, page), old) in (start..).step_by(PAGE).zip(chunk.chunks(PAGE)).zip(other.chunks(PAGE)) {
            if page != old {
                self.image.write_all_at(page, at)?;
                self.written += page.len() as u64;
            }
        }
        *known = hash;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const SIZE: u64 = 4 << 20;

    fn file() -> File {
        let file = File::from(memfd_create("pmem", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SIZE).unwrap();
        file
    }

    fn flush(copy: &mut WriteBack) -> io::Result<()> {
        loop {
            if let Some(ended) = copy.flush_some() {
                return ended;
            }
        }
    }

    fn pair() -> (File, File, WriteBack) {
        let (image, memory) = (file(), file());
        let copy = WriteBack::new(image.try_clone().unwrap(), memory.try_clone().unwrap(), SIZE, false);
        (image, memory, copy)
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut all = vec![0; SIZE as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    #[test]
    fn what_was_written_is_in_the_image_and_nothing_else_is_touched() {
        let (image, memory, mut copy) = pair();
        memory.write_all_at(&[7; 100], 12_345).unwrap();
        memory.write_all_at(&[8; 3], SIZE - 3).unwrap();
        flush(&mut copy).unwrap();
        assert_eq!(contents(&image), contents(&memory));
        assert_eq!(copy.written(), 2 * PAGE as u64);
    }

    #[test]
    fn a_second_flush_writes_only_what_is_new() {
        let (image, memory, mut copy) = pair();
        memory.write_all_at(&[7; 1 << 20], 0).unwrap();
        flush(&mut copy).unwrap();
        let before = copy.written();
        flush(&mut copy).unwrap();
        assert_eq!(copy.written(), before);
        memory.write_all_at(&[9], 70_000).unwrap();
        flush(&mut copy).unwrap();
        assert_eq!(copy.written(), before + PAGE as u64);
        assert_eq!(contents(&image), contents(&memory));
    }

    #[test]
    fn zeros_over_data_are_written_too() {
        let (image, memory, mut copy) = pair();
        image.write_all_at(&[7; 8192], 0).unwrap();
        memory.write_all_at(&[7; 8192], 0).unwrap();
        flush(&mut copy).unwrap();
        memory.write_all_at(&[0; 8192], 0).unwrap();
        flush(&mut copy).unwrap();
        assert_eq!(contents(&image), vec![0; SIZE as usize]);
    }

    #[test]
    fn holes_of_memory_stay_holes() {
        let (_, memory, mut copy) = pair();
        memory.write_all_at(&[1], 1 << 20).unwrap();
        flush(&mut copy).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(memory.metadata().unwrap().blocks() * 512 <= CHUNK as u64);
    }

    #[test]
    fn much_memory_is_looked_at_in_turns() {
        let size = (BUDGET as u64 + 10) * CHUNK as u64;
        let (image, memory) = (file(), file());
        image.set_len(size).unwrap();
        memory.set_len(size).unwrap();
        for chunk in 0..size / CHUNK as u64 {
            memory.write_all_at(&[1], chunk * CHUNK as u64).unwrap();
        }
        let mut copy = WriteBack::new(image, memory, size, false);
        assert!(copy.flush_some().is_none());
        assert!(copy.flush_some().is_some());
    }

    #[test]
    fn memory_out_of_a_snapshot_counts_with_its_holes() {
        let (image, memory, _) = pair();
        image.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
        memory.write_all_at(&[5; PAGE], 0).unwrap();
        let mut copy = WriteBack::new(image.try_clone().unwrap(), memory.try_clone().unwrap(), SIZE, true);
        flush(&mut copy).unwrap();
        assert!(contents(&image) == contents(&memory));
        assert!(!copy.whole, "from now on holes are zero in the image");
    }

    #[test]
    fn an_image_that_was_cut_short_fails_the_flush() {
        let (image, memory, mut copy) = pair();
        memory.write_all_at(&[1], 0).unwrap();
        flush(&mut copy).unwrap();
        image.set_len(SIZE / 2).unwrap();
        assert!(flush(&mut copy).is_err());
        assert_eq!(image.metadata().unwrap().len(), SIZE / 2);
    }

    #[test]
    fn a_successor_that_knows_nothing_writes_nothing_that_is_there() {
        let (image, memory, mut copy) = pair();
        memory.write_all_at(&[5; 1 << 20], 1 << 20).unwrap();
        flush(&mut copy).unwrap();
        let mut successor = WriteBack::new(image, memory, SIZE, false);
        flush(&mut successor).unwrap();
        assert_eq!(successor.written(), 0);
    }
}
