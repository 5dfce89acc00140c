//! Guest memory to the files of a snapshot.
//!
//! ```text
//!  stands still   all pages ─► files complete ─► Saved
//!  live           all pages ─► Copied ─► Round: log taken, then the pages that it names ─► Copied ─► … Complete ─► Saved
//! ```
//! While the guest runs, a page may be written to while it is copied. It is in the log then, which is taken before
//! its pages are read (`models/src/precopy`): the round after has it right, and in the last nobody writes.

use granule_snapshot::memory::{MemorySummary, MemoryWriter};

use super::Passed;
use super::copy::Copier;
use super::memory::GuestPages;
use super::progress::Progress;
use super::restore;
use crate::wire::{
    Blame, Channel, Failure, FdSlot, FileSlots, FromMover, LayerSpec, MoverOrder, SavedMemory,
};

/// What to save, and where to.
pub struct Job {
    /// Where guest memory comes from.
    pub machine: FdSlot,
    /// The files.
    pub files: FileSlots,
    /// What it is a diff of.
    pub parent: Vec<LayerSpec>,
    /// Whether the guest runs meanwhile.
    pub live: bool,
}

/// Does the job.
pub fn save(job: &Job, fds: &mut Passed, control: &Channel) -> Result<FromMover, Failure> {
    let Job { machine, files, parent, live } = job;
    let machine = Channel::from_fd(fds.take(*machine)?);
    let files = fds.files(*files)?;
    let of_request = |failure: Failure| failure.blamed(Blame::Request);
    let parent = (!parent.is_empty()).then(|| restore::open(parent, fds)).transpose().map_err(of_request)?;
    let tagged = files.tags.is_some();
    let pages = GuestPages::receive(&machine, tagged)?;
    let layout = pages.layout().clone();
    if parent.as_ref().is_some_and(|parent| *parent.layout() != layout) {
        return Err(of_request(Failure::of("the parent is a snapshot of a machine with other memory")));
    }
    let mut progress = Progress::new(control, layout.pages());
    let writer = MemoryWriter::new(files, layout, parent.is_some())?;
    let mut copier = Copier::new(pages, writer, parent, tagged);
    let mut pages = copier.copy_all(&mut progress)?;
    if *live {
        loop {
            control.send(&FromMover::Copied { pages }, &[])?;
            match control.receive::<MoverOrder>()?.message {
                MoverOrder::Round => pages = copier.copy_written()?,
                MoverOrder::Complete => break,
                _ => return Err(Failure::of("an order for another job")),
            }
        }
    }
    let (layout, MemorySummary { memory_size, pages, tags }) = copier.finish()?;
    Ok(FromMover::Saved(SavedMemory {
        page_size: layout.page_size().bytes() as u64,
        regions: layout.regions().iter().map(|region| (region.gpa, region.size)).collect(),
        memory_size,
        pages: (pages.size, pages.sum),
        tags: tags.map(|tags| (tags.size, tags.sum)),
    }))
}
