//! Page sizes, and which guest addresses lie where in the `memory` file.
//!
//! Pages are numbered through all regions in order, without gaps: page *n* is at byte *n* × page size of `memory`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The codecs work on blocks of this many pages, so that one 64-bit word has a bit for each.
pub const PAGES_PER_BLOCK: u64 = 64;
/// Bytes of memory that one tag covers.
pub const GRANULE: usize = 16;
/// A snapshot has at most this many regions.
pub const MAX_REGIONS: usize = 1024;
/// A snapshot has at most this many bytes of memory: 256 TiB, the guest physical addresses of 48 bits.
pub const MAX_MEMORY: u64 = 1 << 48;

/// The size of a page: the host kernel's, which is what KVM, the dirty log and userfaultfd work in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl PageSize {
    /// All that Arm has.
    pub const ALL: [Self; 3] = [Self::K4, Self::K16, Self::K64];

    /// The page size of so many bytes, if there is one.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() as u64 == bytes)
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::K4 => 4 << 10,
            Self::K16 => 16 << 10,
            Self::K64 => 64 << 10,
        }
    }

    /// Tags of a page.
    #[must_use]
    pub const fn granules(self) -> usize {
        self.bytes() / GRANULE
    }

    /// Bytes that the tags of a page take at two to the byte.
    #[must_use]
    pub const fn packed_tags(self) -> usize {
        self.granules() / 2
    }
}

/// A range of guest physical addresses with memory behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// The first address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

/// Why a list of regions is no layout.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// None, or too many.
    #[error("a snapshot has 1 to {MAX_REGIONS} memory regions, this one has {0}")]
    Count(usize),
    /// Not a whole number of pages, empty, or beyond the address space.
    #[error("memory region {index} ({size:#x} bytes at {gpa:#x}) is not a range of whole pages")]
    NotPages {
        /// Which region.
        index: usize,
        /// Where it is.
        gpa: u64,
        /// How long it is.
        size: u64,
    },
    /// A region that begins before the one listed before it ends.
    #[error("memory region {index} at {gpa:#x} overlaps, or comes before, the one before it")]
    Overlap {
        /// Which region.
        index: usize,
        /// Where it is.
        gpa: u64,
    },
    /// More memory than a guest can have.
    #[error("memory regions of more than {MAX_MEMORY} bytes")]
    TooMuch,
}

/// Checked: at least one region, ascending, disjoint, of whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    page_size: PageSize,
    regions: Vec<Region>,
    pages: u64,
}

impl Layout {
    /// Checks regions that a file or a configuration gives.
    ///
    /// # Errors
    /// Where they overlap, are not in ascending order, are not whole pages, or are too many.
    pub fn new(page_size: PageSize, regions: Vec<Region>) -> Result<Self, LayoutError> {
        if regions.is_empty() || regions.len() > MAX_REGIONS {
            return Err(LayoutError::Count(regions.len()));
        }
        let unit = page_size.bytes() as u64;
        let (mut end, mut total) = (0, 0);
        for (index, &Region { gpa, size }) in regions.iter().enumerate() {
            let whole =
                size > 0 && size <= MAX_MEMORY && size.is_multiple_of(unit) && gpa.is_multiple_of(unit);
            let Some(next_end) = gpa.checked_add(size).filter(|_| whole) else {
                return Err(LayoutError::NotPages { index, gpa, size });
            };
            if gpa < end {
                return Err(LayoutError::Overlap { index, gpa });
            }
            end = next_end;
            total += size; // at most 2^10 regions of 2^48 bytes
        }
        if total > MAX_MEMORY {
            return Err(LayoutError::TooMuch);
        }
        Ok(Self { page_size, regions, pages: total / unit })
    }

    /// The size of each page.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The regions, ascending.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes of memory: the length of the `memory` file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_size.bytes() as u64
    }

    /// The number of blocks; the last may have fewer than 64 pages.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.pages.div_ceil(PAGES_PER_BLOCK)
    }

    /// How many pages block number `block` has: 64, fewer in the last, none beyond.
    #[must_use]
    pub fn pages_in_block(&self, block: u64) -> usize {
        let left = self.pages.saturating_sub(block.saturating_mul(PAGES_PER_BLOCK));
        usize::try_from(left.min(PAGES_PER_BLOCK)).expect("at most 64")
    }

    /// Where a page is in guest memory.
    #[must_use]
    pub fn gpa_of(&self, page: u64) -> Option<u64> {
        let mut offset = page.checked_mul(self.page_size.bytes() as u64)?;
        for region in &self.regions {
            if offset < region.size {
                return Some(region.gpa + offset);
            }
            offset -= region.size;
        }
        None
    }

    /// Which page holds a guest address.
    #[must_use]
    pub fn page_of(&self, gpa: u64) -> Option<u64> {
        let mut before = 0;
        for region in &self.regions {
            if let Some(offset) = gpa.checked_sub(region.gpa).filter(|offset| *offset < region.size) {
                return Some((before + offset) / self.page_size.bytes() as u64);
            }
            before += region.size;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(regions: &[(u64, u64)]) -> Result<Layout, LayoutError> {
        Layout::new(PageSize::K4, regions.iter().map(|&(gpa, size)| Region { gpa, size }).collect())
    }

    #[test]
    fn pages_are_numbered_through_the_regions() {
        let layout = layout(&[(0x4000_0000, 0x3000), (0x8000_0000, 0x2000)]).unwrap();
        assert_eq!((layout.pages(), layout.bytes(), layout.blocks()), (5, 0x5000, 1));
        for (page, gpa) in [(0, 0x4000_0000), (2, 0x4000_2000), (3, 0x8000_0000), (4, 0x8000_1000)] {
            assert_eq!(layout.gpa_of(page), Some(gpa));
            assert_eq!(layout.page_of(gpa + 0xfff), Some(page));
        }
        assert_eq!(layout.gpa_of(5), None);
        assert_eq!(layout.page_of(0x4000_3000), None);
        assert_eq!(
            (layout.pages_in_block(0), layout.pages_in_block(1), layout.pages_in_block(u64::MAX)),
            (5, 0, 0)
        );
    }

    #[test]
    fn regions_that_overlap_or_are_no_pages_are_refused() {
        assert_eq!(layout(&[]), Err(LayoutError::Count(0)));
        assert_eq!(
            layout(&[(0, 0x2000), (0x1000, 0x1000)]),
            Err(LayoutError::Overlap { index: 1, gpa: 0x1000 })
        );
        assert_eq!(layout(&[(0x2000, 0x1000), (0, 0x1000)]), Err(LayoutError::Overlap { index: 1, gpa: 0 }));
        for (gpa, size) in [(0, 0), (1, 0x1000), (0, 0x1001), (u64::MAX - 0xfff, 0x1000), (0, 1 << 49)] {
            assert_eq!(layout(&[(gpa, size)]), Err(LayoutError::NotPages { index: 0, gpa, size }));
        }
        assert_eq!(layout(&[(0, 1 << 48), (1 << 48, 0x1000)]), Err(LayoutError::TooMuch));
    }
}
