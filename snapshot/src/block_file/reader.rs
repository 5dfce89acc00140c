//! Reads a file of blocks: the header and the directory at once, blocks when asked for.

use std::io;

use super::{BlockFileError, ENTRY, Entry, Expected, HEADER, Header, u32_at};
use crate::data::numbered_sum;
use crate::file::ReadAt;

/// Bytes of the directory that are read at a time.
const STEP: usize = ENTRY * 4096;

/// A file of blocks, opened: header and directory are checked, blocks are when they are read.
#[derive(Debug)]
pub struct BlockFile<F> {
    file: F,
    entries: Vec<Entry>,
    size: u64,
    sum: u32,
}

impl<F: ReadAt> BlockFile<F> {
    /// Opens a file that should be as `expected`.
    ///
    /// # Errors
    /// Where it is not, or is damaged.
    pub fn open(file: F, expected: &Expected<'_>) -> Result<Self, BlockFileError> {
        let size = file.length().map_err(BlockFileError::Read)?;
        let mut header = [0; HEADER as usize];
        file.read_at(&mut header, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BlockFileError::Magic,
            _ => BlockFileError::Read(error),
        })?;
        let sum = u32_at(&header, 60);
        let header = Header::decode(&header, expected)?;
        let entries = directory(&file, header, size, expected)?;
        Ok(Self { file, entries, size, sum })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The header's checksum, which covers all others.
    #[must_use]
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// The numbers of the blocks that the file has, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|entry| entry.number)
    }

    /// The number of the first block from `number` on that the file has.
    #[must_use]
    pub fn next(&self, number: u64) -> Option<u64> {
        let index = self.entries.partition_point(|entry| entry.number < number);
        self.entries.get(index).map(|entry| entry.number)
    }

    /// Bytes of all blocks together.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.length)).sum()
    }

    /// Reads a block into `bytes`; false if the file does not have it.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn read(&self, number: u64, bytes: &mut Vec<u8>) -> Result<bool, BlockFileError> {
        let Ok(index) = self.entries.binary_search_by_key(&number, |entry| entry.number) else {
            return Ok(false);
        };
        let entry = self.entries[index];
        bytes.clear();
        bytes.resize(entry.length as usize, 0); // at most a block's longest, checked at opening
        self.file.read_at(bytes, entry.offset).map_err(BlockFileError::Read)?;
        if numbered_sum(number, bytes) != entry.sum {
            return Err(BlockFileError::BlockSum { number });
        }
        Ok(true)
    }
}

/// Reads the directory piece by piece, each checked before more is kept: what is allocated is what is there.
fn directory<F: ReadAt>(
    file: &F,
    header: Header,
    length: u64,
    expected: &Expected<'_>,
) -> Result<Vec<Entry>, BlockFileError> {
    let Header { directory: offset, entries: count, directory_sum } = header;
    let fits = count.checked_mul(ENTRY as u64).and_then(|bytes| offset.checked_add(bytes)) == Some(length);
    if offset < HEADER || count > expected.layout.blocks() || !fits {
        return Err(BlockFileError::Directory { entries: count, offset, length });
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut sum = crc32fast::Hasher::new();
    let mut at = offset;
    let mut piece = vec![0; STEP];
    while at < length {
        let size = usize::try_from(length - at).map_or(STEP, |left| left.min(STEP));
        let piece = &mut piece[..size];
        file.read_at(piece, at).map_err(BlockFileError::Read)?;
        sum.update(piece);
        let (encoded, _) = piece.as_chunks::<ENTRY>();
        for bytes in encoded {
            let entry = Entry::decode(bytes);
            let bad = |why| BlockFileError::Entry { index: entries.len() as u64, why };
            check(&entry, entries.last(), offset, expected).map_err(bad)?;
            entries.push(entry);
        }
        at += size as u64;
    }
    if sum.finalize() != directory_sum {
        return Err(BlockFileError::DirectorySum);
    }
    let mut by_offset: Vec<(u64, u32, u64)> = Vec::with_capacity(entries.len());
    by_offset.extend((0u64..).zip(&entries).map(|(index, entry)| (entry.offset, entry.length, index)));
    by_offset.sort_unstable();
    match by_offset.windows(2).find(|pair| pair[0].0 + u64::from(pair[0].1) > pair[1].0) {
        Some(pair) => Err(BlockFileError::Entry { index: pair[1].2, why: "overlaps another" }),
        None => Ok(entries),
    }
}

fn check(
    entry: &Entry,
    before: Option<&Entry>,
    end: u64,
    expected: &Expected<'_>,
) -> Result<(), &'static str> {
    if before.is_some_and(|before| before.number >= entry.number) {
        return Err("numbers do not ascend");
    }
    if entry.number >= expected.layout.blocks() {
        return Err("is beyond the last page");
    }
    if entry.length == 0 || entry.length > expected.content.longest(expected.layout) {
        return Err("has a length that no block has");
    }
    let inside = entry.offset.checked_add(u64::from(entry.length)).is_some_and(|block_end| block_end <= end);
    if entry.offset < HEADER || !inside { Err("lies outside the blocks") } else { Ok(()) }
}
