//! Guest memory as the mover sees it: a plain mapping, or a window on its tags and data.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use granule_devices::dirty::{DirtyLog, LOG_PAGE};
use granule_snapshot::file::ReadAt;
use granule_snapshot::layout::{Layout, LayoutError, PageSize, Region};
use rustix::mm::{Advice, madvise};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::tags::{TagError, Tags};
use crate::wire::{Channel, ChannelError, Received, SharedMemory, SharedRegion};

/// Why guest memory cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The socket of the machine.
    #[error("the machine has not passed guest memory")]
    Machine(#[source] ChannelError),
    /// Not as many files as regions.
    #[error("the machine has passed {files} files for {regions} regions of memory")]
    Files {
        /// Descriptors.
        files: usize,
        /// Regions.
        regions: usize,
    },
    /// Regions that are none.
    #[error("guest memory cannot be in a snapshot")]
    Layout(#[from] LayoutError),
    /// A page size that no snapshot can have.
    #[error("the host has pages of {0} bytes")]
    PageSize(usize),
    /// The log of writes.
    #[error("cannot map the log of writes to guest memory")]
    Log(#[source] io::Error),
    /// A mapping.
    #[error("cannot map guest memory at {gpa:#x}")]
    Map {
        /// Where the guest has it.
        gpa: u64,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The kernel's, from what it gave the process at its start: the jail has no file to ask.
fn page_size() -> usize {
    // SAFETY: takes a number, returns a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or_default()
}

/// One region, mapped.
struct Mapped {
    /// The number of its first page, among those of all regions.
    first: u64,
    pages: u64,
    file: Arc<File>,
    offset: u64,
    view: View,
}

/// What there is of a region to see.
enum View {
    Data(MmapRegion<()>),
    DataAndTags(Tags),
}

impl View {
    fn data(&self) -> VolatileSlice<'_> {
        match self {
            Self::Data(mapping) => mapping.as_volatile_slice(),
            Self::DataAndTags(window) => window.data(),
        }
    }

    fn tags(&self) -> Option<&Tags> {
        match self {
            Self::Data(_) => None,
            Self::DataAndTags(window) => Some(window),
        }
    }
}

/// All of it.
pub struct GuestPages {
    layout: Layout,
    regions: Vec<Mapped>,
    /// Pages that were no holes when last looked at: the kernel is asked once for all of them.
    present: Range<u64>,
    log: Option<DirtyLog>,
}

impl GuestPages {
    /// Takes what the machine passes; `tags`: with a window on the tags.
    pub fn receive(machine: &Channel, tags: bool) -> Result<Self, MemoryError> {
        let Received { message, mut fds } =
            machine.receive::<SharedMemory>().map_err(MemoryError::Machine)?;
        let SharedMemory { regions, log } = message;
        let log = log.zip(log.and_then(|_| fds.pop()));
        let log = log.map(|(size, file)| {
            let file = File::from(file);
            let length = file.metadata()?.len();
            DirtyLog::map(file, length, 0, size)
        });
        let log = log.transpose();
        let log = log.map_err(MemoryError::Log)?;
        if regions.len() != fds.len() {
            return Err(MemoryError::Files { files: fds.len(), regions: regions.len() });
        }
        let bytes = page_size();
        let page_size = PageSize::from_bytes(bytes as u64).ok_or(MemoryError::PageSize(bytes))?;
        let listed = regions.iter().map(|&SharedRegion { gpa, size, .. }| Region { gpa, size }).collect();
        let layout = Layout::new(page_size, listed)?;
        let mut first = 0;
        let mut mapped = Vec::with_capacity(regions.len());
        for (region, fd) in regions.into_iter().zip(fds) {
            let pages = region.size / bytes as u64;
            let failed = |source| MemoryError::Map { gpa: region.gpa, source };
            mapped.push(Mapped::new(region, first, pages, Arc::new(File::from(fd)), tags).map_err(failed)?);
            first += pages;
        }
        Ok(Self { layout, present: 0..0, regions: mapped, log })
    }

    /// The regions.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The first page from `from` on that is not a hole: holes have neither data nor tags, and a look at one would fill it.
    pub fn next(&mut self, from: u64) -> io::Result<Option<u64>> {
        if self.present.contains(&from) {
            return Ok(Some(from));
        }
        let size = self.layout.page_size().bytes() as u64;
        for region in self.regions.iter().filter(|region| region.first + region.pages > from) {
            let begin = region.offset + from.saturating_sub(region.first) * size;
            let Some(found) = region.file.next_data(begin)? else { continue };
            let page = region.first + (found - region.offset) / size;
            if page < region.first + region.pages {
                let end = region.file.next_hole(found)?.saturating_sub(region.offset).div_ceil(size);
                self.present = page..region.first + end.min(region.pages);
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// Whether a page has neither data nor tags; it stays so.
    pub fn is_hole(&mut self, page: u64) -> io::Result<bool> {
        Ok(self.next(page)? != Some(page))
    }

    /// Takes the pages that the log of writes names, ascending, and clears it. They must be read after this.
    pub fn harvest(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        let Some(log) = &self.log else { return pages };
        for region in self.layout.regions() {
            log.take(region.gpa..region.gpa + region.size, |address| {
                // Several pages of the log may be one of the host's.
                let page = self.layout.page_of(address / LOG_PAGE * LOG_PAGE);
                pages.extend(page.filter(|page| pages.last() != Some(page)));
            });
        }
        pages
    }

    /// Copies a page's data.
    pub fn read_data(&self, page: u64, data: &mut [u8]) -> io::Result<()> {
        let (region, offset) = self.place(page)?;
        region.view.data().read_slice(data, offset).map_err(io::Error::other)
    }

    /// Copies a page's tags, packed.
    pub fn read_tags(&self, page: u64, packed: &mut [u8]) -> io::Result<()> {
        let (region, offset) = self.place(page)?;
        match region.view.tags() {
            Some(tags) => tags.read_packed(offset, packed).map_err(io::Error::other),
            None => {
                packed.fill(0);
                Ok(())
            }
        }
    }

    /// Sets a page's data.
    pub fn write_data(&self, page: u64, data: &[u8]) -> io::Result<()> {
        let (region, offset) = self.place(page)?;
        region.view.data().write_slice(data, offset).map_err(io::Error::other)
    }

    /// Sets a page's tags.
    pub fn write_tags(&self, page: u64, packed: &[u8]) -> io::Result<()> {
        let (region, offset) = self.place(page)?;
        match region.view.tags() {
            Some(tags) => tags.write_packed(offset, packed).map_err(io::Error::other),
            None => Err(io::Error::other("guest memory was mapped without its tags")),
        }
    }

    /// Where a page is.
    fn place(&self, page: u64) -> io::Result<(&Mapped, usize)> {
        let region = self.regions.iter().find(|region| page < region.first + region.pages);
        let region = region.filter(|region| page >= region.first).ok_or(io::ErrorKind::InvalidInput)?;
        // Cannot truncate: the region is mapped.
        Ok((region, (page - region.first) as usize * self.layout.page_size().bytes()))
    }
}

impl Mapped {
    fn new(
        region: SharedRegion,
        first: u64,
        pages: u64,
        file: Arc<File>,
        tags: bool,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let SharedRegion { size, offset, .. } = region;
        let length = usize::try_from(size)?;
        let view = if tags {
            View::DataAndTags(Tags::map(&file, offset, length).map_err(Box::<TagError>::from)?)
        } else {
            View::Data(plain(&file, offset, length)?)
        };
        Ok(Self { first, pages, file, offset, view })
    }
}

fn plain(
    file: &Arc<File>,
    offset: u64,
    length: usize,
) -> Result<MmapRegion<()>, Box<dyn std::error::Error + Send + Sync>> {
    let data = MmapRegion::from_file(FileOffset::from_arc(file.clone(), offset), length)?;
    // SAFETY: the range is exactly the mapping that `data` owns; the advice keeps its contents.
    match unsafe { madvise(data.as_ptr().cast(), length, Advice::LinuxNoHugepage) } {
        // A kernel without huge pages does not know the advice, and needs none.
        Err(errno) if errno != rustix::io::Errno::INVAL => Err(errno.into()),
        _ => Ok(data),
    }
}
