//! The container of the files `pages` and `tags`: blocks of bytes that are found by their number.
//!
//! ```text
//!   0    header, 64 bytes
//!          0  magic            8 bytes: "GRANPAGE" or "GRANTAGS"
//!          8  format version   u32
//!         12  page size        u32, bytes
//!         16  pages            u64, in the whole snapshot
//!         24  pages per block  u32, 64
//!         28  flags            u32, bit 0: a diff
//!         32  directory        u64, offset
//!         40  entries          u64
//!         48  directory sum    u32, CRC-32 of the directory's bytes
//!         52  zero             8 bytes
//!         60  header sum       u32, CRC-32 of bytes 0–59
//!   64   blocks, anywhere before the directory, never overlapping
//!   …    directory, to the end of the file: 24 bytes per block, ascending by number
//!          0  number           u64: pages 64 × number …
//!          8  offset           u64
//!         16  length           u32
//!         20  sum              u32, CRC-32 of number (u64) and the block's bytes
//! ```
//!
//! A block that is not in the directory is the default: zero in a full snapshot, as in the parent in a diff. The header's sum covers the
//! directory's, which covers the blocks': whoever knows the header's knows the file. Integers are little-endian.

mod reader;
mod writer;

use std::io;

use thiserror::Error;

pub use reader::BlockFile;
pub use writer::{BlockFileSummary, BlockFileWriter};

use crate::FORMAT_VERSION;
use crate::layout::{Layout, PAGES_PER_BLOCK};

pub(super) const HEADER: u64 = 64;
pub(super) const ENTRY: usize = 24;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What each page's data is.
    Pages,
    /// What each page's tags are.
    Tags,
}

impl Content {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Pages => *b"GRANPAGE",
            Self::Tags => *b"GRANTAGS",
        }
    }

    /// The longest block of so many pages.
    fn longest(self, layout: &Layout) -> u32 {
        let pages = PAGES_PER_BLOCK as usize;
        let bytes = match self {
            Self::Pages => 16 + 4 * pages,
            Self::Tags => pages * (1 + layout.page_size().packed_tags()),
        };
        u32::try_from(bytes).expect("at most 131,136")
    }
}

/// What a file must say of itself.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// Which file.
    pub content: Content,
    /// The snapshot's memory.
    pub layout: &'a Layout,
    /// Whether it is a diff.
    pub diff: bool,
}

/// Why a file of blocks cannot be read.
#[derive(Debug, Error)]
pub enum BlockFileError {
    /// The file itself.
    #[error("cannot read")]
    Read(#[source] io::Error),
    /// Too short for a header, or not ours.
    #[error("not a file of this kind: no magic number")]
    Magic,
    /// Written by a later version.
    #[error("format version {found} is newer than {FORMAT_VERSION}, the newest known")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// The header does not have the checksum that it says.
    #[error("header is damaged")]
    HeaderSum,
    /// The header is of another snapshot.
    #[error("header says {field} {found}, the manifest {expected}")]
    Other {
        /// What differs.
        field: &'static str,
        /// In the file.
        found: u64,
        /// In the manifest.
        expected: u64,
    },
    /// The directory does not end where the file ends.
    #[error("directory of {entries} entries at {offset} does not fit a file of {length} bytes")]
    Directory {
        /// Entries that it should have.
        entries: u64,
        /// Where it should be.
        offset: u64,
        /// How long the file is.
        length: u64,
    },
    /// The directory does not have the checksum that the header says.
    #[error("directory is damaged")]
    DirectorySum,
    /// An entry that no writer makes.
    #[error("directory entry {index}: {why}")]
    Entry {
        /// Which.
        index: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A block does not have the checksum that the directory says.
    #[error("block {number} is damaged")]
    BlockSum {
        /// Which.
        number: u64,
    },
}

/// The fixed part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    directory: u64,
    entries: u64,
    directory_sum: u32,
}

impl Header {
    fn encode(self, expected: &Expected<'_>) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&expected.content.magic());
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(expected.layout.page_size().bytes() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&expected.layout.pages().to_le_bytes());
        bytes[24..28].copy_from_slice(&(PAGES_PER_BLOCK as u32).to_le_bytes());
        bytes[28..32].copy_from_slice(&u32::from(expected.diff).to_le_bytes());
        bytes[32..40].copy_from_slice(&self.directory.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.entries.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.directory_sum.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER as usize], expected: &Expected<'_>) -> Result<Self, BlockFileError> {
        if bytes[..8] != expected.content.magic() {
            return Err(BlockFileError::Magic);
        }
        let found = u32_at(bytes, 8);
        if found > FORMAT_VERSION {
            return Err(BlockFileError::Newer { found });
        }
        if u32_at(bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Err(BlockFileError::HeaderSum);
        }
        let fields = [
            ("version", u64::from(found), u64::from(FORMAT_VERSION)),
            ("page size", u64::from(u32_at(bytes, 12)), expected.layout.page_size().bytes() as u64),
            ("pages", u64_at(bytes, 16), expected.layout.pages()),
            ("pages per block", u64::from(u32_at(bytes, 24)), PAGES_PER_BLOCK),
            ("flags", u64::from(u32_at(bytes, 28)), u64::from(expected.diff)),
            ("reserved bytes", u64_at(bytes, 52), 0),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(BlockFileError::Other { field, found, expected });
            }
        }
        Ok(Self {
            directory: u64_at(bytes, 32),
            entries: u64_at(bytes, 40),
            directory_sum: u32_at(bytes, 48),
        })
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u64,
    offset: u64,
    length: u32,
    sum: u32,
}

impl Entry {
    fn encode(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY]) -> Self {
        Self {
            number: u64_at(bytes, 0),
            offset: u64_at(bytes, 8),
            length: u32_at(bytes, 16),
            sum: u32_at(bytes, 20),
        }
    }
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
