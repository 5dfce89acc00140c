//! Writes memory: pages in any order, each as often as need be; the last of each counts.

use std::collections::BTreeMap;

use super::{MemoryError, MemoryFiles, PageSource, place};
use crate::block_file::{BlockFileSummary, BlockFileWriter, Content, Expected};
use crate::data::{DataBlock, DataKind, page_sum};
use crate::file::WriteAt;
use crate::layout::{Layout, PAGES_PER_BLOCK};
use crate::tags::{TagBlock, is_all_zero};

/// What the manifest says of finished memory files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySummary {
    /// The length of `memory`.
    pub memory_size: u64,
    /// `pages`.
    pub pages: BlockFileSummary,
    /// `tags`, if there is one.
    pub tags: Option<BlockFileSummary>,
}

/// Writes the three files. What is never put is zero and without tags (full), or as in the parent (diff).
#[derive(Debug)]
pub struct MemoryWriter<F> {
    layout: Layout,
    diff: bool,
    memory: F,
    pages: BlockFileWriter<F>,
    /// 272 bytes for each block that has data: 1/960 of the memory that it describes.
    data: BTreeMap<u64, DataBlock>,
    tags: Option<TagsWriter<F>>,
    pending: Pending,
}

/// Raw pages that follow each other, to be written at once.
#[derive(Debug, Default)]
struct Pending {
    first: u64,
    bytes: Vec<u8>,
}

/// Writes tags, with one block open: pages of one block usually come together.
#[derive(Debug)]
struct TagsWriter<F> {
    file: BlockFileWriter<F>,
    open: Option<(u64, TagBlock)>,
}

impl<F: WriteAt> MemoryWriter<F> {
    /// Starts to write to empty files.
    ///
    /// # Errors
    /// Where `memory` cannot be given its length.
    pub fn new(files: MemoryFiles<F>, layout: Layout, diff: bool) -> Result<Self, MemoryError> {
        files.memory.set_length(layout.bytes()).map_err(MemoryError::Memory)?;
        Ok(Self {
            layout,
            diff,
            memory: files.memory,
            pages: BlockFileWriter::new(files.pages),
            data: BTreeMap::new(),
            tags: files.tags.map(|file| TagsWriter { file: BlockFileWriter::new(file), open: None }),
            pending: Pending::default(),
        })
    }

    /// Takes the data of a page.
    ///
    /// # Errors
    /// Where there is no such page, or `memory` cannot be written.
    ///
    /// # Panics
    /// Where `data` is not one page.
    pub fn put_data(&mut self, page: u64, data: &[u8]) -> Result<(), MemoryError> {
        assert_eq!(data.len(), self.layout.page_size().bytes(), "data of one page");
        self.check(page)?;
        let (block, index) = place(page);
        let zero = is_all_zero(data);
        let kind = if zero { DataKind::Zero } else { DataKind::Raw(page_sum(page, data)) };
        let diff = self.diff;
        let described = self.data.entry(block).or_insert_with(|| DataBlock::new(diff));
        let was_raw = matches!(described.page(index), DataKind::Raw(_));
        described.set(index, kind);
        if !zero {
            return self.write_raw(page, data);
        }
        if was_raw {
            self.flush_raw()?;
            let size = self.layout.page_size().bytes() as u64;
            self.memory.clear(page * size, size).map_err(MemoryError::Memory)?;
        }
        Ok(())
    }

    /// Takes the packed tags of a page.
    ///
    /// # Errors
    /// Where there is no such page, it has tags and the snapshot keeps none, or `tags` cannot be written.
    ///
    /// # Panics
    /// Where `packed` is not the tags of one page.
    pub fn put_tags(&mut self, page: u64, packed: &[u8]) -> Result<(), MemoryError> {
        assert_eq!(packed.len(), self.layout.page_size().packed_tags(), "packed tags of one page");
        self.check(page)?;
        match &mut self.tags {
            Some(tags) => tags.put(page, packed, &self.layout, self.diff),
            None if is_all_zero(packed) => Ok(()),
            None => Err(MemoryError::NoTags { page }),
        }
    }

    /// Takes data and tags of all pages of a source that are not left out.
    ///
    /// # Errors
    /// Of the source, or of writing.
    pub fn put_all(&mut self, source: &mut impl PageSource) -> Result<(), MemoryError> {
        let mut data = vec![0; self.layout.page_size().bytes()];
        let mut packed = vec![0; self.layout.page_size().packed_tags()];
        let mut from = 0;
        while from < self.layout.pages() {
            let failed = |page| move |source| MemoryError::Source { page, source };
            let Some(page) = source.next(from).map_err(failed(from))? else { break };
            if source.read_data(page, &mut data).map_err(failed(page))? {
                self.put_data(page, &data)?;
            }
            if self.tags.is_some() && source.read_tags(page, &mut packed).map_err(failed(page))? {
                self.put_tags(page, &packed)?;
            }
            from = page + 1;
        }
        Ok(())
    }

    /// Completes the files and makes them last.
    ///
    /// # Errors
    /// Of any of the files.
    pub fn finish(mut self) -> Result<MemorySummary, MemoryError> {
        self.flush_raw()?;
        let write = |file| move |source| MemoryError::Write { file, source };
        let mut bytes = Vec::new();
        for (&block, described) in self.data.iter().filter(|(_, described)| !described.is_default(self.diff))
        {
            bytes.clear();
            described.encode(self.layout.pages_in_block(block), self.diff, &mut bytes);
            self.pages.put(block, &bytes).map_err(write("pages"))?;
        }
        let expected = |content| Expected { content, layout: &self.layout, diff: self.diff };
        let pages = self.pages.finish(&expected(Content::Pages)).map_err(write("pages"))?;
        let tags = match self.tags {
            None => None,
            Some(mut tags) => {
                tags.close(self.diff)?;
                Some(tags.file.finish(&expected(Content::Tags)).map_err(write("tags"))?)
            }
        };
        self.memory.sync().map_err(MemoryError::Memory)?;
        Ok(MemorySummary { memory_size: self.layout.bytes(), pages, tags })
    }

    fn check(&self, page: u64) -> Result<(), MemoryError> {
        let pages = self.layout.pages();
        if page < pages { Ok(()) } else { Err(MemoryError::NoSuchPage { page, pages }) }
    }

    fn write_raw(&mut self, page: u64, data: &[u8]) -> Result<(), MemoryError> {
        let held = (self.pending.bytes.len() / data.len()) as u64;
        if held == PAGES_PER_BLOCK || page != self.pending.first + held {
            self.flush_raw()?;
        }
        if self.pending.bytes.is_empty() {
            self.pending.first = page;
        }
        self.pending.bytes.extend_from_slice(data);
        Ok(())
    }

    fn flush_raw(&mut self) -> Result<(), MemoryError> {
        if !self.pending.bytes.is_empty() {
            let offset = self.pending.first * self.layout.page_size().bytes() as u64;
            self.memory.write_at(&self.pending.bytes, offset).map_err(MemoryError::Memory)?;
            self.pending.bytes.clear();
        }
        Ok(())
    }
}

impl<F: WriteAt> TagsWriter<F> {
    fn put(&mut self, page: u64, packed: &[u8], layout: &Layout, diff: bool) -> Result<(), MemoryError> {
        let (block, index) = place(page);
        if self.open.as_ref().is_none_or(|(open, _)| *open != block) {
            self.close(diff)?;
            let (size, pages) = (layout.page_size(), layout.pages_in_block(block));
            let tags = match self.file.get(block).map_err(write_tags)? {
                None => TagBlock::new(size, pages, diff),
                Some(bytes) => TagBlock::decode(&bytes, size, pages, diff)
                    .map_err(|source| MemoryError::TagBlock { block, source })?,
            };
            self.open = Some((block, tags));
        }
        if let Some((_, tags)) = &mut self.open {
            tags.set(index, packed);
        }
        Ok(())
    }

    /// Writes the open block.
    fn close(&mut self, diff: bool) -> Result<(), MemoryError> {
        let Some((block, tags)) = self.open.take() else { return Ok(()) };
        if tags.is_default(diff) {
            self.file.remove(block);
            return Ok(());
        }
        let mut bytes = Vec::new();
        tags.encode(&mut bytes);
        self.file.put(block, &bytes).map_err(write_tags)
    }
}

fn write_tags(source: std::io::Error) -> MemoryError {
    MemoryError::Write { file: "tags", source }
}
