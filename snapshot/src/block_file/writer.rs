//! Writes a file of blocks, in any order, each as often as need be; the last of each counts.

use std::collections::BTreeMap;
use std::io;

use super::{Entry, Expected, HEADER, Header, u32_at};
use crate::data::numbered_sum;
use crate::file::WriteAt;

/// What the manifest says of a finished file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFileSummary {
    /// Bytes.
    pub size: u64,
    /// The header's checksum, which covers all others.
    pub sum: u32,
}

/// Writes a file of blocks. Until [`finish`](Self::finish) there is no header: what a crash leaves is not readable.
#[derive(Debug)]
pub struct BlockFileWriter<F> {
    file: F,
    entries: BTreeMap<u64, Entry>,
    end: u64,
}

impl<F: WriteAt> BlockFileWriter<F> {
    /// Starts a file, which is empty.
    pub fn new(file: F) -> Self {
        Self { file, entries: BTreeMap::new(), end: HEADER }
    }

    /// Writes block `number`; in place of an earlier one with the same number, whose bytes stay behind unused unless
    /// the new ones fit there.
    ///
    /// # Errors
    /// Of the file.
    ///
    /// # Panics
    /// With a block of 4 GiB or more.
    pub fn put(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("a block is far shorter");
        let room = self.entries.get(&number).filter(|old| length <= old.length).map(|old| old.offset);
        let offset = room.unwrap_or(self.end);
        self.file.write_at(bytes, offset)?;
        if room.is_none() {
            self.end += u64::from(length);
        }
        self.entries.insert(number, Entry { number, offset, length, sum: numbered_sum(number, bytes) });
        Ok(())
    }

    /// Forgets block `number`: it is the default again.
    pub fn remove(&mut self, number: u64) {
        self.entries.remove(&number);
    }

    /// Reads a block back.
    ///
    /// # Errors
    /// Of the file.
    pub fn get(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(entry) = self.entries.get(&number) else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize]; // written by `put`, so that long
        self.file.read_at(&mut bytes, entry.offset)?;
        Ok(Some(bytes))
    }

    /// Writes directory and header, and makes the file last.
    ///
    /// # Errors
    /// Of the file.
    pub fn finish(self, expected: &Expected<'_>) -> io::Result<BlockFileSummary> {
        let mut sum = crc32fast::Hasher::new();
        let mut at = self.end;
        let entries: Vec<&Entry> = self.entries.values().collect();
        for some in entries.chunks(4096) {
            let bytes: Vec<u8> = some.iter().flat_map(|entry| entry.encode()).collect();
            sum.update(&bytes);
            self.file.write_at(&bytes, at)?;
            at += bytes.len() as u64;
        }
        let header =
            Header { directory: self.end, entries: entries.len() as u64, directory_sum: sum.finalize() };
        let header = header.encode(expected);
        self.file.write_at(&header, 0)?;
        self.file.sync()?;
        Ok(BlockFileSummary { size: at, sum: u32_at(&header, 60) })
    }
}
