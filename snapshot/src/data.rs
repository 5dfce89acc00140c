//! What the data of a block of up to 64 pages is: raw, zero, or as in the parent.
//!
//! ```text
//!   u64   bit n: page n is raw, its data is in the `memory` file (or follows on the wire)
//!   u64   bit n: page n is zero                       (in a diff only; in a full snapshot what is not raw is zero)
//!   u32   for each raw page, in order: its checksum
//! ```
//!
//! In a diff, a page that is neither raw nor zero is as in the parent. A block of zero pages only (full), or of
//! pages that are all as in the parent (diff), is not stored. Integers are little-endian.

use thiserror::Error;

use crate::layout::PAGES_PER_BLOCK;

/// Checksum of a raw page: CRC-32 of its number (64 bits, little-endian) and its data.
///
/// The number is in it so that a page in the wrong place is as wrong as a changed one.
#[must_use]
pub fn page_sum(page: u64, data: &[u8]) -> u32 {
    numbered_sum(page, data)
}

/// CRC-32 of a number (64 bits, little-endian) and bytes.
pub(crate) fn numbered_sum(number: u64, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(bytes);
    sum.finalize()
}

/// Why bytes are not the description of a block's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DataError {
    /// The length does not fit the bits.
    #[error("data block of {found} bytes should have {expected}")]
    Length {
        /// What it has.
        found: usize,
        /// What its bits ask for (or the least that any has).
        expected: usize,
    },
    /// A bit for a page that the block does not have, or a page that is both raw and zero.
    #[error("data block has bits raw {raw:#x} and zero {zero:#x} for {pages} pages")]
    Bits {
        /// The first word.
        raw: u64,
        /// The second word.
        zero: u64,
        /// Pages that the block has.
        pages: usize,
    },
}

/// What the data of one page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// All zero.
    Zero,
    /// In the `memory` file, with this checksum.
    Raw(u32),
    /// As in the parent.
    Inherited,
}

/// What the data of a block of pages is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataBlock {
    raw: u64,
    zero: u64,
    sums: [u32; PAGES_PER_BLOCK as usize],
}

impl DataBlock {
    /// A block whose pages are all zero, or all as in the parent.
    #[must_use]
    pub fn new(inherited: bool) -> Self {
        Self { raw: 0, zero: if inherited { 0 } else { u64::MAX }, sums: [0; PAGES_PER_BLOCK as usize] }
    }

    /// What page `page` of the block is.
    ///
    /// # Panics
    /// Where `page` is not below 64.
    #[must_use]
    pub fn page(&self, page: usize) -> DataKind {
        assert!(page < PAGES_PER_BLOCK as usize, "page {page} of a block");
        match (self.raw >> page & 1, self.zero >> page & 1) {
            (1, _) => DataKind::Raw(self.sums[page]),
            (_, 1) => DataKind::Zero,
            _ => DataKind::Inherited,
        }
    }

    /// Says what page `page` of the block is.
    ///
    /// # Panics
    /// Where `page` is not below 64.
    pub fn set(&mut self, page: usize, kind: DataKind) {
        assert!(page < PAGES_PER_BLOCK as usize, "page {page} of a block");
        let bit = 1u64 << page;
        (self.raw, self.zero, self.sums[page]) = match kind {
            DataKind::Raw(sum) => (self.raw | bit, self.zero & !bit, sum),
            DataKind::Zero => (self.raw & !bit, self.zero | bit, 0),
            DataKind::Inherited => (self.raw & !bit, self.zero & !bit, 0),
        };
    }

    /// The number of raw pages.
    #[must_use]
    pub fn raw_pages(&self) -> usize {
        self.raw.count_ones() as usize
    }

    /// Whether nothing need be stored.
    #[must_use]
    pub fn is_default(&self, parent: bool) -> bool {
        self.raw == 0 && (!parent || self.zero == 0)
    }

    /// Appends the description of the block's first `pages` pages. `parent`: in a diff.
    pub fn encode(&self, pages: usize, parent: bool, out: &mut Vec<u8>) {
        let all = all(pages);
        out.extend_from_slice(&(self.raw & all).to_le_bytes());
        if parent {
            out.extend_from_slice(&(self.zero & all).to_le_bytes());
        }
        for page in (0..pages).filter(|page| self.raw >> page & 1 == 1) {
            out.extend_from_slice(&self.sums[page].to_le_bytes());
        }
    }

    /// Reads the description of a block of `pages` pages. `parent`: in a diff.
    ///
    /// # Errors
    /// Where the bytes are not exactly that.
    ///
    /// # Panics
    /// With 0 or more than 64 pages.
    pub fn decode(bytes: &[u8], pages: usize, parent: bool) -> Result<Self, DataError> {
        let head = if parent { 16 } else { 8 };
        let (words, _) = bytes.as_chunks::<8>();
        let (raw, zero) = match words {
            [raw, zero, ..] if parent => (u64::from_le_bytes(*raw), u64::from_le_bytes(*zero)),
            [raw, ..] if !parent => (u64::from_le_bytes(*raw), !u64::from_le_bytes(*raw) & all(pages)),
            _ => return Err(DataError::Length { found: bytes.len(), expected: head }),
        };
        if (raw | zero) & !all(pages) != 0 || raw & zero != 0 {
            return Err(DataError::Bits { raw, zero, pages });
        }
        let expected = head + 4 * raw.count_ones() as usize;
        if bytes.len() != expected {
            return Err(DataError::Length { found: bytes.len(), expected });
        }
        let mut block = Self { raw, zero, sums: [0; PAGES_PER_BLOCK as usize] };
        let (sums, _) = bytes[head..].as_chunks::<4>();
        for (page, sum) in (0..pages).filter(|page| raw >> page & 1 == 1).zip(sums) {
            block.sums[page] = u32::from_le_bytes(*sum);
        }
        Ok(block)
    }
}

/// A bit for each page of a block.
fn all(pages: usize) -> u64 {
    assert!((1..=PAGES_PER_BLOCK as usize).contains(&pages), "a block has 1 to 64 pages, not {pages}");
    u64::MAX >> (64 - pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_block_is_a_word_and_the_sums_of_its_raw_pages() {
        let mut block = DataBlock::new(false);
        block.set(1, DataKind::Raw(0x1122_3344));
        block.set(3, DataKind::Raw(5));
        let mut bytes = Vec::new();
        block.encode(10, false, &mut bytes);
        assert_eq!(bytes, [0b1010, 0, 0, 0, 0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 5, 0, 0, 0]);
        let read = DataBlock::decode(&bytes, 10, false).unwrap();
        assert_eq!((read.page(0), read.page(1)), (DataKind::Zero, DataKind::Raw(0x1122_3344)));
        assert!(!read.is_default(false) && DataBlock::new(false).is_default(false));
    }

    #[test]
    fn a_diff_block_tells_zero_from_inherited() {
        let mut block = DataBlock::new(true);
        assert!(block.is_default(true));
        block.set(0, DataKind::Zero);
        block.set(2, DataKind::Raw(7));
        let mut bytes = Vec::new();
        block.encode(3, true, &mut bytes);
        assert_eq!(bytes.len(), 20);
        let read = DataBlock::decode(&bytes, 3, true).unwrap();
        let kinds = [0, 1, 2].map(|page| read.page(page));
        assert_eq!(kinds, [DataKind::Zero, DataKind::Inherited, DataKind::Raw(7)]);
    }

    #[test]
    fn bytes_that_are_no_block_are_refused() {
        assert!(matches!(DataBlock::decode(&[0; 7], 64, false), Err(DataError::Length { .. })));
        assert!(matches!(DataBlock::decode(&[0; 8], 64, true), Err(DataError::Length { .. })));
        assert!(matches!(DataBlock::decode(&[0; 9], 64, false), Err(DataError::Length { .. })));
        assert!(matches!(
            DataBlock::decode(&[8, 0, 0, 0, 0, 0, 0, 0], 3, false),
            Err(DataError::Bits { .. })
        ));
        let mut both = [0; 20];
        (both[0], both[8]) = (1, 1);
        assert!(matches!(DataBlock::decode(&both, 3, true), Err(DataError::Bits { .. })));
    }
}
