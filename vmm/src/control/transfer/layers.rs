//! The memory of a snapshot and of its parents, opened for the mover.

use std::fs::File;
use std::os::fd::BorrowedFd;

use granule_snapshot::directory::{Chain, OpenError};
use granule_snapshot::memory::MemoryFiles;

use super::mover::files_of;
use crate::wire::LayerSpec;

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

    /// How an order names them; `fds` are the descriptors that go with it.
    pub fn specs<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> Vec<LayerSpec> {
        let layers = self.0.iter();
        layers
            .map(|(manifest, files)| LayerSpec { manifest: manifest.clone(), files: files_of(files, fds) })
            .collect()
    }
}
