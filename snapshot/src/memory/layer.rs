//! Reads the memory of one snapshot, page by page, checking what it reads.

use super::{MemoryError, MemoryFiles, place};
use crate::block_file::{BlockFile, Content, Expected};
use crate::data::{DataBlock, DataKind, page_sum};
use crate::file::ReadAt;
use crate::layout::Layout;
use crate::manifest::{FileSum, Manifest};
use crate::tags::{TagBlock, is_all_zero};

/// What a snapshot has of a page's data, or of its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All zero.
    Zero,
    /// Something, which was read.
    Present,
    /// The parent has it.
    Inherited,
}

/// The memory of one snapshot. Opening reads little; each page is checked when it is read.
#[derive(Debug)]
pub struct MemoryLayer<F> {
    layout: Layout,
    diff: bool,
    memory: F,
    pages: BlockFile<F>,
    tags: Option<BlockFile<F>>,
    /// The blocks read last: neighbours are usually read together.
    data_block: Option<(u64, DataBlock)>,
    tag_block: Option<(u64, TagBlock)>,
    scratch: Vec<u8>,
}

impl<F: ReadAt> MemoryLayer<F> {
    /// Opens the files of a snapshot with this layout.
    ///
    /// # Errors
    /// Where they are not such files, or are damaged.
    pub fn open(files: MemoryFiles<F>, layout: Layout, diff: bool) -> Result<Self, MemoryError> {
        let (found, expected) = (files.memory.length().map_err(MemoryError::Memory)?, layout.bytes());
        if found != expected {
            return Err(MemoryError::Length { found, expected });
        }
        let expected = |content| Expected { content, layout: &layout, diff };
        let pages = BlockFile::open(files.pages, &expected(Content::Pages)).map_err(MemoryError::Pages)?;
        let tags = files.tags.map(|file| BlockFile::open(file, &expected(Content::Tags))).transpose();
        let tags = tags.map_err(MemoryError::Tags)?;
        Ok(Self {
            diff,
            memory: files.memory,
            pages,
            tags,
            data_block: None,
            tag_block: None,
            scratch: Vec::new(),
            layout,
        })
    }

    /// The memory's layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether it is a diff: what is not in it is in the parent.
    #[must_use]
    pub fn is_diff(&self) -> bool {
        self.diff
    }

    /// The `pages` file.
    #[must_use]
    pub fn pages_file(&self) -> &BlockFile<F> {
        &self.pages
    }

    /// The `tags` file, if there is one.
    #[must_use]
    pub fn tags_file(&self) -> Option<&BlockFile<F>> {
        self.tags.as_ref()
    }

    /// The first block from `block` on of which the snapshot has anything.
    #[must_use]
    pub fn next_block(&self, block: u64) -> Option<u64> {
        let tags = self.tags.as_ref().and_then(|tags| tags.next(block));
        self.pages.next(block).into_iter().chain(tags).min()
    }

    /// What the data of a page is.
    ///
    /// # Errors
    /// Where there is no such page, or its block is damaged.
    pub fn data_kind(&mut self, page: u64) -> Result<DataKind, MemoryError> {
        self.check(page)?;
        let (block, index) = place(page);
        if let Some((_, described)) = self.data_block.as_ref().filter(|(held, _)| *held == block) {
            return Ok(described.page(index));
        }
        let described = if self.pages.read(block, &mut self.scratch).map_err(MemoryError::Pages)? {
            DataBlock::decode(&self.scratch, self.layout.pages_in_block(block), self.diff)
                .map_err(|source| MemoryError::DataBlock { block, source })?
        } else {
            DataBlock::new(self.diff)
        };
        let kind = described.page(index);
        self.data_block = Some((block, described));
        Ok(kind)
    }

    /// Reads the data of a page. Where the parent has it, `data` stays as it is.
    ///
    /// # Errors
    /// Where there is no such page, or it or its block is damaged.
    ///
    /// # Panics
    /// Where `data` is not one page.
    pub fn read_data(&mut self, page: u64, data: &mut [u8]) -> Result<Presence, MemoryError> {
        assert_eq!(data.len(), self.layout.page_size().bytes(), "room for one page");
        match self.data_kind(page)? {
            DataKind::Inherited => Ok(Presence::Inherited),
            DataKind::Zero => {
                data.fill(0);
                Ok(Presence::Zero)
            }
            DataKind::Raw(sum) => {
                self.memory.read_at(data, page * data.len() as u64).map_err(MemoryError::Memory)?;
                if page_sum(page, data) != sum {
                    return Err(MemoryError::PageSum { page });
                }
                Ok(Presence::Present)
            }
        }
    }

    /// Opens the files that a manifest is about: their checksums must be those that it says.
    ///
    /// # Errors
    /// As [`open`](Self::open), and where they are another snapshot's.
    pub fn open_of(files: MemoryFiles<F>, manifest: &Manifest) -> Result<Self, MemoryError> {
        let layer = Self::open(files, manifest.layout.clone(), manifest.parent.is_some())?;
        let found = |file: &BlockFile<F>| FileSum { size: file.size(), sum: file.sum() };
        if found(&layer.pages) != manifest.pages {
            return Err(MemoryError::Other { file: "pages" });
        }
        if layer.tags.as_ref().map(found) != manifest.tags {
            return Err(MemoryError::Other { file: "tags" });
        }
        Ok(layer)
    }

    /// Reads all: raw pages must have their checksums, all others must be zero in `memory`, as those need who map the file.
    ///
    /// # Errors
    /// At the first page that is not as it was written.
    pub fn verify(&mut self) -> Result<(), MemoryError> {
        let mut data = vec![0; self.layout.page_size().bytes()];
        let mut packed = vec![0; self.layout.page_size().packed_tags()];
        let size = data.len() as u64;
        let mut hole_end = 0;
        for page in 0..self.layout.pages() {
            let raw = self.read_data(page, &mut data)? == Presence::Present;
            if !raw && hole_end <= page * size {
                let next = self.memory.next_data(page * size).map_err(MemoryError::Memory)?;
                hole_end = next.unwrap_or(u64::MAX);
            }
            if !raw && hole_end < (page + 1) * size {
                self.memory.read_at(&mut data, page * size).map_err(MemoryError::Memory)?;
                if !is_all_zero(&data) {
                    return Err(MemoryError::NotZero { page });
                }
            }
            self.read_tags(page, &mut packed)?;
        }
        Ok(())
    }

    /// Reads the packed tags of a page. Where the parent has them, `packed` stays as it is.
    ///
    /// # Errors
    /// Where there is no such page, or its block is damaged.
    ///
    /// # Panics
    /// Where `packed` is not the tags of one page.
    pub fn read_tags(&mut self, page: u64, packed: &mut [u8]) -> Result<Presence, MemoryError> {
        assert_eq!(packed.len(), self.layout.page_size().packed_tags(), "room for the tags of one page");
        self.check(page)?;
        let (block, index) = place(page);
        if self.tag_block.as_ref().is_none_or(|(held, _)| *held != block) {
            let (size, pages) = (self.layout.page_size(), self.layout.pages_in_block(block));
            let found = match &self.tags {
                Some(tags) => tags.read(block, &mut self.scratch).map_err(MemoryError::Tags)?,
                None => false,
            };
            let tags = if found {
                TagBlock::decode(&self.scratch, size, pages, self.diff)
                    .map_err(|source| MemoryError::TagBlock { block, source })?
            } else {
                TagBlock::new(size, pages, self.diff && self.tags.is_some())
            };
            self.tag_block = Some((block, tags));
        }
        let tags = self.tag_block.as_ref().and_then(|(_, tags)| tags.page(index));
        let Some(tags) = tags else { return Ok(Presence::Inherited) };
        packed.copy_from_slice(tags);
        Ok(if is_all_zero(packed) { Presence::Zero } else { Presence::Present })
    }

    fn check(&self, page: u64) -> Result<(), MemoryError> {
        let pages = self.layout.pages();
        if page < pages { Ok(()) } else { Err(MemoryError::NoSuchPage { page, pages }) }
    }
}
