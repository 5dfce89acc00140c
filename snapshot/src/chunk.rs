//! One block of pages on the migration wire: the same bytes as in `pages` and `tags`, with the raw pages after them.
//!
//! ```text
//!    0  magic        4 bytes: "GCHK"
//!    4  raw pages    u32
//!    8  block        u64: pages 64 × block …
//!   16  data length  u32, 0: the default (zero, or in a diff as sent before)
//!   20  tags length  u32, 0: the default
//!   24  zero         4 bytes
//!   28  sum          u32, CRC-32 of bytes 0–27, the data part and the tags part
//!   32  data part, tags part, raw pages in order (each with its checksum in the data part)
//! ```
//!
//! Rounds of a pre-copy after the first are diffs: "as in the parent" is "as sent before".

use thiserror::Error;

use crate::block_file::{u32_at, u64_at};
use crate::data::{DataBlock, DataError, DataKind, page_sum};
use crate::layout::{Layout, PAGES_PER_BLOCK};
use crate::tags::{TagBlock, TagsError};

/// Bytes of a chunk before its parts.
pub const CHUNK_HEADER: usize = 32;

const MAGIC: [u8; 4] = *b"GCHK";

/// Why bytes are not a chunk.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// Not the beginning of a chunk.
    #[error("no chunk begins here")]
    Magic,
    /// Numbers that no sender writes.
    #[error("chunk header with {what} {value}, which no chunk has")]
    Header {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Fewer or more bytes than the header says.
    #[error("chunk of {found} bytes should have {expected}")]
    Length {
        /// Given.
        found: usize,
        /// By the header.
        expected: usize,
    },
    /// Header or parts are damaged.
    #[error("chunk of block {block} is damaged")]
    Sum {
        /// Which.
        block: u64,
    },
    /// A page is damaged.
    #[error("page {page} is damaged")]
    PageSum {
        /// Which.
        page: u64,
    },
    /// The data part is wrong.
    #[error("data part of block {block}")]
    Data {
        /// Which.
        block: u64,
        /// Why.
        source: DataError,
    },
    /// The tags part is wrong.
    #[error("tags part of block {block}")]
    Tags {
        /// Which.
        block: u64,
        /// Why.
        source: TagsError,
    },
}

/// What comes after a header, checked against what can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Which block of pages.
    pub block: u64,
    data_length: usize,
    tags_length: usize,
    raw_length: usize,
    /// The bytes that the checksum begins with, and the checksum.
    summed: [u8; 28],
    sum: u32,
}

impl ChunkHeader {
    /// Checks a header: what it announces is no more than a block can have.
    ///
    /// # Errors
    /// Where it is no header, or announces what no sender sends.
    pub fn decode(bytes: &[u8; CHUNK_HEADER], layout: &Layout) -> Result<Self, ChunkError> {
        if bytes[..4] != MAGIC {
            return Err(ChunkError::Magic);
        }
        let block = u64_at(bytes, 8);
        let pages = layout.pages_in_block(block);
        let raw_pages = u32_at(bytes, 4) as usize;
        let (data_length, tags_length) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        let limits = [
            ("block", block, layout.blocks() - 1),
            ("raw pages", raw_pages as u64, pages as u64),
            ("data length", data_length as u64, 16 + 4 * PAGES_PER_BLOCK),
            ("tags length", tags_length as u64, (pages * (1 + layout.page_size().packed_tags())) as u64),
            ("reserved bytes", u64::from(u32_at(bytes, 24)), 0),
        ];
        if let Some(&(what, value, _)) = limits.iter().find(|(_, value, most)| value > most) {
            return Err(ChunkError::Header { what, value });
        }
        let summed = bytes[..28].try_into().expect("28 bytes");
        let raw_length = raw_pages * layout.page_size().bytes();
        Ok(Self { block, data_length, tags_length, raw_length, summed, sum: u32_at(bytes, 28) })
    }

    /// How many bytes follow the header: at most a block of pages and 1/32 of it.
    #[must_use]
    pub fn body_length(&self) -> usize {
        self.data_length + self.tags_length + self.raw_length
    }
}

/// A block of pages, received and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Which block of pages.
    pub block: u64,
    /// What each page's data is.
    pub data: DataBlock,
    /// What each page's tags are.
    pub tags: TagBlock,
    /// The raw pages, in order.
    pub raw: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads what follows a header. `diff`: whether pages may be as sent before.
    ///
    /// # Errors
    /// Where it is damaged or is not what the header announced.
    pub fn decode(
        header: &ChunkHeader,
        body: &'a [u8],
        layout: &Layout,
        diff: bool,
    ) -> Result<Self, ChunkError> {
        let block = header.block;
        if body.len() != header.body_length() {
            return Err(ChunkError::Length { found: body.len(), expected: header.body_length() });
        }
        let (parts, raw) = body.split_at(header.data_length + header.tags_length);
        let mut sum = crc32fast::Hasher::new();
        sum.update(&header.summed);
        sum.update(parts);
        if sum.finalize() != header.sum {
            return Err(ChunkError::Sum { block });
        }
        let (data, tags) = parts.split_at(header.data_length);
        let pages = layout.pages_in_block(block);
        let data = match data {
            [] => DataBlock::new(diff),
            bytes => {
                DataBlock::decode(bytes, pages, diff).map_err(|source| ChunkError::Data { block, source })?
            }
        };
        let size = layout.page_size();
        let tags = match tags {
            [] => TagBlock::new(size, pages, diff),
            bytes => TagBlock::decode(bytes, size, pages, diff)
                .map_err(|source| ChunkError::Tags { block, source })?,
        };
        if raw.len() != data.raw_pages() * size.bytes() {
            return Err(ChunkError::Header { what: "raw length", value: raw.len() as u64 });
        }
        let chunk = Self { block, data, tags, raw };
        for (page, bytes) in chunk.raw_pages(layout) {
            if chunk.data.page(page) != DataKind::Raw(page_sum(block * PAGES_PER_BLOCK + page as u64, bytes))
            {
                return Err(ChunkError::PageSum { page: block * PAGES_PER_BLOCK + page as u64 });
            }
        }
        Ok(chunk)
    }

    /// The raw pages, each with its number in the block.
    pub fn raw_pages(&self, layout: &Layout) -> impl Iterator<Item = (usize, &'a [u8])> {
        let raw =
            (0..PAGES_PER_BLOCK as usize).filter(|page| matches!(self.data.page(*page), DataKind::Raw(_)));
        let numbers: Vec<usize> = raw.collect();
        numbers.into_iter().zip(self.raw.chunks_exact(layout.page_size().bytes()))
    }

    /// Appends the chunk to `out`.
    ///
    /// # Panics
    /// Where the block is beyond the layout, or `raw` is not as long as the data says.
    pub fn encode(&self, layout: &Layout, diff: bool, out: &mut Vec<u8>) {
        let pages = layout.pages_in_block(self.block);
        assert_eq!(
            self.raw.len(),
            self.data.raw_pages() * layout.page_size().bytes(),
            "raw pages as described"
        );
        let start = out.len();
        out.resize(start + CHUNK_HEADER, 0);
        if !self.data.is_default(diff) {
            self.data.encode(pages, diff, out);
        }
        let data_length = out.len() - start - CHUNK_HEADER;
        if !self.tags.is_default(diff) {
            self.tags.encode(out);
        }
        let tags_length = out.len() - start - CHUNK_HEADER - data_length;
        let header = &mut out[start..start + CHUNK_HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&(self.data.raw_pages() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.block.to_le_bytes());
        header[16..20].copy_from_slice(&(data_length as u32).to_le_bytes());
        header[20..24].copy_from_slice(&(tags_length as u32).to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        sum.update(&out[start..start + 28]);
        sum.update(&out[start + CHUNK_HEADER..]);
        out[start + 28..start + CHUNK_HEADER].copy_from_slice(&sum.finalize().to_le_bytes());
        out.extend_from_slice(self.raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{PageSize, Region};

    fn layout() -> Layout {
        Layout::new(PageSize::K4, vec![Region { gpa: 0, size: 66 * 4096 }]).unwrap()
    }

    /// Block 1 of two pages: the first raw and uniformly tagged, the second zero.
    fn example(raw: &[u8]) -> Chunk<'_> {
        let mut data = DataBlock::new(true);
        data.set(0, DataKind::Raw(page_sum(64, raw)));
        data.set(1, DataKind::Zero);
        let mut tags = TagBlock::new(PageSize::K4, 2, true);
        tags.set(0, &[0x55; 128]);
        Chunk { block: 1, data, tags, raw }
    }

    fn decode(bytes: &[u8]) -> Result<Chunk<'_>, ChunkError> {
        let Some((header, body)) = bytes.split_first_chunk() else { return Err(ChunkError::Magic) };
        Chunk::decode(&ChunkHeader::decode(header, &layout())?, body, &layout(), true)
    }

    #[test]
    fn what_is_sent_is_received() {
        let raw = [7; 4096];
        let mut bytes = Vec::new();
        example(&raw).encode(&layout(), true, &mut bytes);
        assert_eq!(bytes.len(), 32 + 20 + 2 + 4096);
        let chunk = decode(&bytes).unwrap();
        assert_eq!(chunk, example(&raw));
        assert_eq!(chunk.raw_pages(&layout()).map(|(page, _)| page).collect::<Vec<_>>(), [0]);
        assert_eq!((chunk.tags.page(0), chunk.tags.page(1)), (Some(&[0x55; 128][..]), None));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = Vec::new();
        example(&[7; 4096]).encode(&layout(), true, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
