//! Guest memory with its tags, in three files: written in any page order, read page by page through a chain of diffs.
//!
//! ```text
//!   guest ──PageSource──► MemoryWriter ──► memory, pages, tags ──► MemoryLayer ─┐
//!                                                           (of the parent) ───┤ MemoryChain ──PageSink──► guest
//!                                                    (of the parent's parent) ─┘            └─► MemoryWriter (merge)
//! ```
//!
//! Data and tags are separate everywhere: a page of zeros may have tags, and a page may change in one and not in the other.
//! Packed tags are as in [`crate::tags`].

mod chain;
mod layer;
mod writer;

use std::io;

use thiserror::Error;

pub use chain::MemoryChain;
pub use layer::{MemoryLayer, Presence};
pub use writer::{MemorySummary, MemoryWriter};

use crate::block_file::BlockFileError;
use crate::data::DataError;
use crate::tags::TagsError;

/// The files that hold memory. Without `tags` no page has any.
#[derive(Clone, Debug)]
pub struct MemoryFiles<F> {
    /// Raw pages, each at its number times the page size.
    pub memory: F,
    /// What each page's data is.
    pub pages: F,
    /// What each page's tags are.
    pub tags: Option<F>,
}

/// Where pages come from: guest memory, or a test's buffers.
pub trait PageSource {
    /// The first page from `from` on that may hold data or tags; what is skipped has neither (in a diff: is unchanged).
    ///
    /// # Errors
    /// Of the memory.
    fn next(&mut self, from: u64) -> io::Result<Option<u64>>;

    /// Copies a page's data; false if this snapshot is a diff and the data is unchanged.
    ///
    /// # Errors
    /// Of the memory.
    fn read_data(&mut self, page: u64, data: &mut [u8]) -> io::Result<bool>;

    /// Copies a page's packed tags; false if this snapshot is a diff and the tags are unchanged.
    ///
    /// # Errors
    /// Of the memory.
    fn read_tags(&mut self, page: u64, packed: &mut [u8]) -> io::Result<bool>;
}

/// Where pages go. A page that is given no data is zero, one that is given no tags has none.
pub trait PageSink {
    /// Takes a page's data, which is not all zero.
    ///
    /// # Errors
    /// Of the memory.
    fn write_data(&mut self, page: u64, data: &[u8]) -> io::Result<()>;

    /// Takes a page's packed tags, which are not all zero.
    ///
    /// # Errors
    /// Of the memory.
    fn write_tags(&mut self, page: u64, packed: &[u8]) -> io::Result<()>;
}

/// Why memory cannot be written or read.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A page that the layout does not have.
    #[error("page {page} is beyond the snapshot's memory of {pages} pages")]
    NoSuchPage {
        /// Which.
        page: u64,
        /// How many there are.
        pages: u64,
    },
    /// The `memory` file itself.
    #[error("cannot read or write memory")]
    Memory(#[source] io::Error),
    /// The `memory` file is too short or too long.
    #[error("memory is {found} bytes long and should be {expected}")]
    Length {
        /// Its length.
        found: u64,
        /// By the regions.
        expected: u64,
    },
    /// A page is not what was written.
    #[error("page {page} of memory is damaged")]
    PageSum {
        /// Which.
        page: u64,
    },
    /// A file of another snapshot.
    #[error("{file} is not the file that the manifest is about")]
    Other {
        /// Which.
        file: &'static str,
    },
    /// A page that should be zero, and is not.
    #[error("page {page} of memory should be zero and is not")]
    NotZero {
        /// Which.
        page: u64,
    },
    /// The `pages` file.
    #[error("pages")]
    Pages(#[source] BlockFileError),
    /// The `tags` file.
    #[error("tags")]
    Tags(#[source] BlockFileError),
    /// `pages` or `tags` cannot be written.
    #[error("cannot write {file}")]
    Write {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A block of `pages` has the right checksum and is wrong all the same.
    #[error("pages, block {block}")]
    DataBlock {
        /// Which.
        block: u64,
        /// Why.
        source: DataError,
    },
    /// A block of `tags` has the right checksum and is wrong all the same.
    #[error("tags, block {block}")]
    TagBlock {
        /// Which.
        block: u64,
        /// Why.
        source: TagsError,
    },
    /// Tags are given to a snapshot without, or asked to be merged into one.
    #[error("page {page} has tags and this snapshot keeps none")]
    NoTags {
        /// Which.
        page: u64,
    },
    /// A diff without what it is a diff of.
    #[error("page {page} is as in the parent, and there is none")]
    NoBase {
        /// Which.
        page: u64,
    },
    /// Where the pages come from.
    #[error("cannot read page {page} of the guest")]
    Source {
        /// Which.
        page: u64,
        /// Why.
        source: io::Error,
    },
    /// Where the pages go.
    #[error("cannot write page {page} of the guest")]
    Sink {
        /// Which.
        page: u64,
        /// Why.
        source: io::Error,
    },
}

/// Block and page in the block of a page.
fn place(page: u64) -> (u64, usize) {
    use crate::layout::PAGES_PER_BLOCK;
    (page / PAGES_PER_BLOCK, (page % PAGES_PER_BLOCK) as usize)
}
