//! A snapshot, through its chain of parents, to guest memory that is fresh: all zero, without tags.

use std::io;

use granule_snapshot::manifest::Manifest;
use granule_snapshot::memory::{MemoryChain, MemoryLayer, PageSink};

use super::Passed;
use super::memory::GuestPages;
use super::progress::Progress;
use crate::wire::{Blame, Channel, Failure, FdSlot, FromMover, LayerSpec};

/// Does the job.
pub fn restore(
    machine: FdSlot,
    layers: &[LayerSpec],
    fds: &mut Passed,
    control: &Channel,
) -> Result<FromMover, Failure> {
    let machine = Channel::from_fd(fds.take(machine)?);
    let mut chain = open(layers, fds).map_err(|failure| failure.blamed(Blame::Request))?;
    let pages =
        GuestPages::receive(&machine, layers.first().is_some_and(|layer| layer.files.tags.is_some()))?;
    if pages.layout() != chain.layout() {
        return Err(Failure::of("the machine's memory is not where the snapshot's is").blamed(Blame::Request));
    }
    let progress = Progress::new(control, pages.layout().pages());
    let restored = chain.restore(&mut Sink { pages, progress });
    restored.map_err(|error| Failure::from(error).blamed(Blame::Request))?;
    Ok(FromMover::Restored)
}

/// Opens the files of a snapshot and of its parents.
pub(super) fn open(layers: &[LayerSpec], fds: &mut Passed) -> Result<MemoryChain<std::fs::File>, Failure> {
    let mut opened = Vec::with_capacity(layers.len());
    for layer in layers {
        let manifest = Manifest::decode(layer.manifest.as_bytes())?;
        opened.push(MemoryLayer::open_of(fds.files(layer.files)?, &manifest)?);
    }
    let same = opened.windows(2).all(|pair| pair[0].layout() == pair[1].layout());
    if opened.is_empty() || !same {
        return Err(Failure::of("the snapshots are not of one machine"));
    }
    Ok(MemoryChain::new(opened))
}

struct Sink<'a> {
    pages: GuestPages,
    progress: Progress<'a>,
}

impl PageSink for Sink<'_> {
    fn write_data(&mut self, page: u64, data: &[u8]) -> io::Result<()> {
        self.progress.reached(page);
        self.pages.write_data(page, data)
    }

    fn write_tags(&mut self, page: u64, packed: &[u8]) -> io::Result<()> {
        self.pages.write_tags(page, packed)
    }
}
