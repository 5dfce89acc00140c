//! Guest memory to the files of a snapshot. Nobody writes to it meanwhile: vCPUs stand still, devices are quiet.

use std::io;

use granule_snapshot::memory::{MemorySummary, MemoryWriter, PageSource};

use super::Passed;
use super::memory::GuestPages;
use super::progress::Progress;
use crate::wire::{Channel, Failure, FdSlot, FileSlots, FromMover, SavedMemory};

/// Does the job.
pub fn save(
    machine: FdSlot,
    files: FileSlots,
    fds: &mut Passed,
    control: &Channel,
) -> Result<FromMover, Failure> {
    let machine = fds.take(machine)?;
    let files = fds.files(files)?;
    let pages = GuestPages::receive(machine, files.tags.is_some())?;
    let layout = pages.layout().clone();
    let mut writer = MemoryWriter::new(files, layout.clone(), false)?;
    let progress = Progress::new(control, layout.pages());
    writer.put_all(&mut Source { pages, progress })?;
    let MemorySummary { memory_size, pages, tags } = writer.finish()?;
    Ok(FromMover::Saved(SavedMemory {
        page_size: layout.page_size().bytes() as u64,
        regions: layout.regions().iter().map(|region| (region.gpa, region.size)).collect(),
        memory_size,
        pages: (pages.size, pages.sum),
        tags: tags.map(|tags| (tags.size, tags.sum)),
    }))
}

/// All pages that are not holes.
struct Source<'a> {
    pages: GuestPages,
    progress: Progress<'a>,
}

impl PageSource for Source<'_> {
    fn next(&mut self, from: u64) -> io::Result<Option<u64>> {
        self.progress.reached(from);
        self.pages.next(from)
    }

    fn read_data(&mut self, page: u64, data: &mut [u8]) -> io::Result<bool> {
        self.pages.read_data(page, data).map(|()| true)
    }

    fn read_tags(&mut self, page: u64, packed: &mut [u8]) -> io::Result<bool> {
        self.pages.read_tags(page, packed).map(|()| true)
    }
}
