//! Copies pages of guest memory to a snapshot; of a diff, those alone that are not as in its parent.
//!
//! What is the same is found by comparing, data and tags each for itself: that is right whatever has written to memory
//! since the parent was made, and needs nothing to be logged while no snapshot is being made.

use std::fs::File;
use std::io;

use granule_snapshot::layout::{Layout, PAGES_PER_BLOCK};
use granule_snapshot::memory::{MemoryChain, MemoryError, MemorySummary, MemoryWriter};

use super::memory::GuestPages;
use super::progress::Progress;

/// See the module's description.
pub struct Copier {
    pages: GuestPages,
    writer: MemoryWriter<File>,
    parent: Option<Parent>,
    /// Whether there are tags to copy.
    tagged: bool,
    data: Vec<u8>,
    packed: Vec<u8>,
}

/// What the snapshot is a diff of.
struct Parent {
    chain: MemoryChain<File>,
    data: Half,
    tags: Half,
}

/// The data, or the tags, of a diff's pages beside those of its parent.
struct Half {
    /// What the snapshot has of its own already: that counts, even where the page is again as in the parent.
    own: Pages,
    /// Room for a page of the parent's.
    theirs: Vec<u8>,
}

impl Copier {
    /// Copies to the files of `writer`, which are those of a diff if there is a parent.
    pub fn new(
        pages: GuestPages,
        writer: MemoryWriter<File>,
        parent: Option<MemoryChain<File>>,
        tagged: bool,
    ) -> Self {
        let layout = pages.layout();
        let page = || vec![0; layout.page_size().bytes()];
        let tags = || vec![0; layout.page_size().packed_tags()];
        let half = |theirs| Half { own: Pages::none_of(layout), theirs };
        let parent = parent.map(|chain| Parent { chain, data: half(page()), tags: half(tags()) });
        Self { data: page(), packed: tags(), pages, writer, parent, tagged }
    }

    /// Copies all of memory; answers how many pages that were.
    pub fn copy_all(&mut self, progress: &mut Progress<'_>) -> Result<u64, MemoryError> {
        let (mut from, mut copied) = (0, 0);
        while let Some((page, hole)) = self.next(from)? {
            progress.reached(page);
            self.copy(page, hole)?;
            copied += 1;
            from = page + 1;
        }
        Ok(copied)
    }

    /// Copies the pages that were written to since they were copied; answers how many those were.
    pub fn copy_written(&mut self) -> Result<u64, MemoryError> {
        let written = self.pages.harvest();
        for &page in &written {
            let hole = self.pages.is_hole(page).map_err(|source| MemoryError::Source { page, source })?;
            self.copy(page, hole)?;
        }
        Ok(written.len() as u64)
    }

    /// Completes the files and makes them last.
    pub fn finish(self) -> Result<(Layout, MemorySummary), MemoryError> {
        let layout = self.pages.layout().clone();
        Ok((layout, self.writer.finish()?))
    }

    /// The first page from `from` on of which the guest, or the parent, has anything, and whether it is a hole of the guest's.
    fn next(&mut self, from: u64) -> Result<Option<(u64, bool)>, MemoryError> {
        if from >= self.pages.layout().pages() {
            return Ok(None);
        }
        let guest = self.pages.next(from).map_err(|source| MemoryError::Source { page: from, source })?;
        let parent = self.parent.as_ref().and_then(|parent| parent.chain.next_block(from / PAGES_PER_BLOCK));
        let parent = parent.map(|block| (block * PAGES_PER_BLOCK).max(from));
        Ok(guest.into_iter().chain(parent).min().map(|page| (page, guest != Some(page))))
    }

    fn copy(&mut self, page: u64, hole: bool) -> Result<(), MemoryError> {
        self.read(page, hole).map_err(|source| MemoryError::Source { page, source })?;
        let own = match &mut self.parent {
            None => true,
            // Zeros are read where the parent has none.
            Some(Parent { chain, data, .. }) => {
                data.is_own(page, &self.data, |theirs| chain.read_data(page, theirs).map(drop))?
            }
        };
        if own {
            self.writer.put_data(page, &self.data)?;
        }
        if !self.tagged {
            return Ok(());
        }
        let own = match &mut self.parent {
            None => true,
            Some(Parent { chain, tags, .. }) => {
                tags.is_own(page, &self.packed, |theirs| chain.read_tags(page, theirs).map(drop))?
            }
        };
        if own { self.writer.put_tags(page, &self.packed) } else { Ok(()) }
    }

    /// A look at a hole would fill it.
    fn read(&mut self, page: u64, hole: bool) -> io::Result<()> {
        if hole {
            self.data.fill(0);
            self.packed.fill(0);
            return Ok(());
        }
        self.pages.read_data(page, &mut self.data)?;
        if self.tagged { self.pages.read_tags(page, &mut self.packed) } else { Ok(()) }
    }
}

impl Half {
    /// Whether the page is to be the snapshot's own; then it stays so. `read` fills in the parent's.
    fn is_own(
        &mut self,
        page: u64,
        ours: &[u8],
        read: impl FnOnce(&mut [u8]) -> Result<(), MemoryError>,
    ) -> Result<bool, MemoryError> {
        if self.own.contains(page) {
            return Ok(true);
        }
        read(&mut self.theirs)?;
        let differs = self.theirs != ours;
        if differs {
            self.own.insert(page);
        }
        Ok(differs)
    }
}

/// A set of pages.
struct Pages(Vec<u64>);

impl Pages {
    fn none_of(layout: &Layout) -> Self {
        // Cannot truncate: the memory is mapped. 1/32768 of it.
        Self(vec![0; layout.blocks() as usize])
    }

    fn contains(&self, page: u64) -> bool {
        self.0[(page / PAGES_PER_BLOCK) as usize] >> (page % PAGES_PER_BLOCK) & 1 == 1
    }

    fn insert(&mut self, page: u64) {
        self.0[(page / PAGES_PER_BLOCK) as usize] |= 1 << (page % PAGES_PER_BLOCK);
    }
}
