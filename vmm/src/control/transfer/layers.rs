//! The memory of a snapshot and of its parents, opened for the mover.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use granule_snapshot::directory::{Chain, OpenError};
use granule_snapshot::memory::MemoryFiles;

use super::mover::{Mover, MoverStart, between, files_of};
use crate::wire::{Failure, FdSlot, LayerSpec, MoverOrder};

/// Manifest and files of each snapshot of a chain, newest first.
#[derive(Debug)]
pub struct Layers(Vec<(String, MemoryFiles<File>)>);

impl Layers {
    /// The most that the mover can be given: what one message carries of descriptors and of manifests.
    pub const MOST: usize = 72;

    /// Opens them. Damage that is seen without reading memory is seen here.
    pub fn open(chain: &Chain) -> Result<Self, OpenError> {
        let layers = chain.snapshots().iter().map(|snapshot| {
            let manifest = String::from_utf8_lossy(&snapshot.manifest().encode()).into_owned();
            snapshot.memory()?;
            Ok((manifest, snapshot.memory_files()?))
        });
        layers.collect::<Result<_, _>>().map(Self)
    }

    /// Starts the mover of a restore; answers the machine's end of the socket to it.
    pub fn restore(&self, start: MoverStart<'_>) -> Result<(Mover, OwnedFd), Failure> {
        let (theirs, machines) = between()?;
        let mut fds = vec![theirs.as_fd()];
        let layers = self.specs(&mut fds);
        let order = MoverOrder::Restore { machine: FdSlot(0), layers };
        Ok((Mover::start(start, &order, &fds)?, machines))
    }

    /// Starts a mover that places pages while the guest runs: `machine` and `processes` are its ends of the sockets on
    /// which memory is announced.
    pub fn place(
        &self,
        start: MoverStart<'_>,
        machine: &OwnedFd,
        processes: &[OwnedFd],
    ) -> Result<Mover, Failure> {
        let mut fds = vec![machine.as_fd()];
        let layers = self.specs(&mut fds);
        let slots = processes.iter().map(|process| {
            fds.push(process.as_fd());
            // The channel refuses more than 253.
            FdSlot(u8::try_from(fds.len() - 1).unwrap_or(u8::MAX))
        });
        let processes = slots.collect();
        Mover::start(start, &MoverOrder::Place { machine: FdSlot(0), layers, processes }, &fds)
    }

    /// How an order names them; `fds` are the descriptors that go with it.
    pub fn specs<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> Vec<LayerSpec> {
        let layers = self.0.iter();
        layers
            .map(|(manifest, files)| LayerSpec { manifest: manifest.clone(), files: files_of(files, fds) })
            .collect()
    }
}
