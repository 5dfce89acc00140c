//! The tags of a block of up to 64 pages, in as few bytes as they need.
//!
//! Packed tags are two to the byte: the tag of granule 2*i* in the low half of byte *i*, that of 2*i*+1 in the high half. A block
//! is a sequence of records that together cover each of its pages once, in order:
//!
//! ```text
//!   0x00–0x3f  the next 1–64 pages have no tags (all zero)
//!   0x40–0x7f  the next 1–64 pages have the tags that they have in the parent   (in a diff only)
//!   0x81–0x8f  one page, every granule with tag 1–15
//!   0x90       one page, packed tags follow (128 bytes for 4 KiB)
//!   0xa0–0xaf  one page, runs follow: bits 0–1 order, bit 2 separated, bit 3 a common length (in the next byte, less one)
//! ```
//!
//! A block that would be one record "no tags" (full) or "as in the parent" (diff) is not stored.
//!
//! | page of 4 KiB | bytes |
//! |---|---|
//! | no tags, in a block without tags | 0 |
//! | no tags, among others | 1 for up to 64 neighbours |
//! | uniform | 1 |
//! | heap of small objects | 5–45, see `docs/snapshot-format.md` |
//! | every granule random | 129 |

mod bits;
mod records;
mod runs;

use thiserror::Error;

use crate::layout::{PAGES_PER_BLOCK, PageSize};
pub use records::record_sizes;
use records::records;
use runs::{Form, Scratch};

const INHERITED: u8 = 0x40;
const UNIFORM: u8 = 0x80;
const PACKED: u8 = 0x90;
const RUNS: u8 = 0xa0;
const SEPARATED: u8 = 0x04;
const COMMON: u8 = 0x08;

/// Why bytes are not a block of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TagsError {
    /// The bytes end inside a record or before the last page.
    #[error("tag block ends before page {page}")]
    Short {
        /// The page in the block that is incomplete.
        page: usize,
    },
    /// There are bytes after the last page's.
    #[error("tag block has {bytes} bytes after its last page")]
    Long {
        /// How many.
        bytes: usize,
    },
    /// No such record, or one that this kind of snapshot cannot have.
    #[error("tag record {record:#04x} of page {page} is none of this format")]
    Record {
        /// The record's first byte.
        record: u8,
        /// The page in the block.
        page: usize,
    },
    /// A record for more pages than the block has left.
    #[error("tag record {record:#04x} of page {page} goes past the end of the block")]
    TooManyPages {
        /// The record's first byte.
        record: u8,
        /// The page in the block.
        page: usize,
    },
    /// Runs that do not fill a page exactly, or are cut off.
    #[error("the tag runs of page {page} do not fill it")]
    Runs {
        /// The page in the block.
        page: usize,
    },
}

/// How the tags of one page are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    /// All zero.
    Zero,
    /// All of one tag that is not zero.
    Uniform(u8),
    /// As runs.
    Runs,
    /// Two to the byte.
    Packed,
    /// As in the parent.
    Inherited,
}

/// What the tags of a page are, before they are written.
fn uniform(packed: &[u8]) -> Option<u8> {
    let first = packed[0];
    let (words, _) = packed.as_chunks::<8>();
    let pattern = [first; 8];
    (first >> 4 == first & 0xf && words.iter().all(|word| *word == pattern)).then_some(first & 0xf)
}

/// Whether all tags are zero.
#[must_use]
pub fn is_untagged(packed: &[u8]) -> bool {
    uniform(packed) == Some(0)
}

/// The tags of a block of pages, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagBlock {
    page_size: PageSize,
    pages: usize,
    /// Pages that are as in the parent, by bit.
    inherited: u64,
    packed: Vec<u8>,
}

impl TagBlock {
    /// A block of `pages` pages that have no tags, or the parent's.
    ///
    /// # Panics
    /// With 0 or more than 64 pages.
    #[must_use]
    pub fn new(page_size: PageSize, pages: usize, inherited: bool) -> Self {
        assert!((1..=PAGES_PER_BLOCK as usize).contains(&pages), "a block has 1 to 64 pages, not {pages}");
        let all = u64::MAX >> (64 - pages);
        Self {
            page_size,
            pages,
            inherited: if inherited { all } else { 0 },
            packed: vec![0; pages * page_size.packed_tags()],
        }
    }

    /// The number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The packed tags of a page of the block; `None` where the parent has them.
    ///
    /// # Panics
    /// Where the block has no such page.
    #[must_use]
    pub fn page(&self, page: usize) -> Option<&[u8]> {
        assert!(page < self.pages, "page {page} of a block of {}", self.pages);
        (self.inherited >> page & 1 == 0).then(|| self.packed_of(page))
    }

    fn packed_of(&self, page: usize) -> &[u8] {
        let size = self.page_size.packed_tags();
        &self.packed[page * size..(page + 1) * size]
    }

    /// Sets the packed tags of a page.
    ///
    /// # Panics
    /// Where the block has no such page, or `packed` is not as long as a page's tags.
    pub fn set(&mut self, page: usize, packed: &[u8]) {
        assert!(page < self.pages, "page {page} of a block of {}", self.pages);
        let size = self.page_size.packed_tags();
        self.packed[page * size..(page + 1) * size].copy_from_slice(packed);
        self.inherited &= !(1 << page);
    }

    /// Whether nothing need be stored: no page has tags (`parent` false), or all have the parent's (`parent` true).
    #[must_use]
    pub fn is_default(&self, parent: bool) -> bool {
        let all = u64::MAX >> (64 - self.pages);
        if parent { self.inherited == all } else { self.inherited == 0 && is_all_zero(&self.packed) }
    }

    /// Appends the block's records to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut scratch = Scratch::default();
        let mut page = 0;
        while page < self.pages {
            let same = self.plain_pages(page);
            if let Some((kind, count)) = same {
                out.push(kind | (count - 1) as u8);
                page += count;
            } else {
                encode_page(self.packed_of(page), &mut scratch, out);
                page += 1;
            }
        }
    }

    /// How many pages from `page` on are without tags, or as in the parent, and the record for it.
    fn plain_pages(&self, page: usize) -> Option<(u8, usize)> {
        let count = |test: &dyn Fn(usize) -> bool| (page..self.pages).take_while(|page| test(*page)).count();
        let inherited = |page: usize| self.inherited >> page & 1 == 1;
        if inherited(page) {
            return Some((INHERITED, count(&inherited)));
        }
        let untagged = |page: usize| !inherited(page) && is_all_zero(self.packed_of(page));
        let pages = count(&untagged);
        (pages > 0).then_some((0, pages))
    }

    /// Reads a block of `pages` pages. `parent`: whether pages may be as in the parent (in a diff).
    ///
    /// # Errors
    /// Where the bytes are not exactly such a block.
    ///
    /// # Panics
    /// With 0 or more than 64 pages.
    pub fn decode(bytes: &[u8], page_size: PageSize, pages: usize, parent: bool) -> Result<Self, TagsError> {
        let mut block = Self::new(page_size, pages, false);
        let used = records(bytes, page_size, pages, parent, |page, count, kind, payload, _| match kind {
            TagKind::Zero => {}
            TagKind::Inherited => block.inherited |= (u64::MAX >> (64 - count)) << page,
            TagKind::Uniform(tag) => block.packed_mut(page).fill(tag << 4 | tag),
            TagKind::Packed | TagKind::Runs => block.packed_mut(page).copy_from_slice(payload),
        })?;
        if used < bytes.len() { Err(TagsError::Long { bytes: bytes.len() - used }) } else { Ok(block) }
    }

    fn packed_mut(&mut self, page: usize) -> &mut [u8] {
        let size = self.page_size.packed_tags();
        &mut self.packed[page * size..(page + 1) * size]
    }
}

/// Whether every byte is zero.
pub(crate) fn is_all_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    let zero = |word: &[u8; 64]| word.iter().fold(0, |all, byte| all | byte) == 0;
    words.iter().all(zero) && rest.iter().all(|byte| *byte == 0)
}

/// Appends the record of one page that has tags.
fn encode_page(packed: &[u8], scratch: &mut Scratch, out: &mut Vec<u8>) {
    if let Some(tag) = uniform(packed) {
        out.push(UNIFORM | tag);
    } else if !runs::encode(packed, runs_record, scratch, out) {
        out.push(PACKED);
        out.extend_from_slice(packed);
    }
}

fn runs_record(form: Form) -> u8 {
    let flag = |set, bit| if set { bit } else { 0 };
    RUNS | flag(form.separated, SEPARATED) | flag(form.common.is_some(), COMMON) | form.order as u8
}

#[cfg(test)]
mod tests;
