//! Which pages are there, and the writing of those that are not.

use std::fs::File;
use std::ops::Range;

use granule_snapshot::layout::PAGES_PER_BLOCK;
use granule_snapshot::memory::{MemoryChain, MemoryError, Presence};

use crate::mover::memory::GuestPages;
use crate::wire::{Blame, Failure};

/// Pages filled at a time while nobody waits: somebody may begin to.
const FEW: u64 = 16;

/// See the module's description.
pub struct Fill {
    chain: MemoryChain<File>,
    pages: GuestPages,
    /// One bit per page: filled, or nothing to fill. Set when data and tags are in place.
    ready: Vec<u64>,
    /// All before this page are ready.
    next: u64,
    data: Vec<u8>,
    packed: Vec<u8>,
}

impl Fill {
    /// Nothing is there yet.
    pub fn new(chain: MemoryChain<File>, pages: GuestPages) -> Self {
        let size = pages.layout().page_size();
        // One word per block.
        let blocks = usize::try_from(pages.layout().blocks()).unwrap_or(usize::MAX);
        Self {
            chain,
            ready: vec![0; blocks],
            next: 0,
            data: vec![0; size.bytes()],
            packed: vec![0; size.packed_tags()],
            pages,
        }
    }

    /// How far the fill has come that nobody waits for.
    pub fn looked_at(&self) -> u64 {
        self.next
    }

    /// Fills a page if it is not ready; answers whether it did and there was anything to fill it with.
    pub fn page(&mut self, page: u64) -> Result<bool, Failure> {
        // Cannot truncate: there is a word for each block.
        let (word, bit) = ((page / PAGES_PER_BLOCK) as usize, 1 << (page % PAGES_PER_BLOCK));
        if self.ready.get(word).is_none_or(|word| word & bit != 0) {
            return Ok(false);
        }
        let damaged = |error: MemoryError| Failure::from(error).blamed(Blame::Request);
        let data = self.chain.read_data(page, &mut self.data).map_err(damaged)?;
        let tags = self.chain.read_tags(page, &mut self.packed).map_err(damaged)?;
        if data == Presence::Inherited || tags == Presence::Inherited {
            return Err(
                Failure::of("the chain of snapshots has no full one at its end").blamed(Blame::Request)
            );
        }
        if data == Presence::Present {
            self.pages.write_data(page, &self.data)?;
        }
        if tags == Presence::Present {
            self.pages.write_tags(page, &self.packed)?;
        }
        self.ready[word] |= bit;
        Ok(data == Presence::Present || tags == Presence::Present)
    }

    /// Fills these pages, for which nobody will wait.
    pub fn load(&mut self, pages: Range<u64>) -> Result<(), Failure> {
        let mut page = pages.start;
        while let Some(block) = self.chain.next_block(page / PAGES_PER_BLOCK) {
            page = page.max(block * PAGES_PER_BLOCK);
            if page >= pages.end {
                break;
            }
            self.page(page)?;
            page += 1;
        }
        Ok(())
    }

    /// Fills the next few pages that are not ready; answers the first page, and with a bit each those that were filled by
    /// this. Nothing where all are ready.
    pub fn next_few(&mut self) -> Result<Option<(u64, u64)>, Failure> {
        let pages = self.pages.layout().pages();
        // What no snapshot of the chain has anything of stays a hole.
        let block = self.next / PAGES_PER_BLOCK;
        match self.chain.next_block(block) {
            Some(found) if found > block => self.next = found * PAGES_PER_BLOCK,
            Some(_) => {}
            None => self.next = pages,
        }
        if self.next >= pages {
            return Ok(None);
        }
        let first = self.next;
        let mut filled = 0;
        for index in 0..FEW.min(pages - first) {
            filled |= u64::from(self.page(first + index)?) << index;
        }
        self.next = (first + FEW).min(pages);
        Ok(Some((first, filled)))
    }

    /// Has the file have a page of zeros where it has a hole.
    pub fn make(&mut self, page: u64) -> Result<(), Failure> {
        // A look at a hole of a memory file fills it, and changes nothing where there is none any more.
        Ok(self.pages.read_data(page, &mut self.data)?)
    }
}
