//! Makes one snapshot of a chain.

use std::path::Path;

use thiserror::Error;

use super::{Chain, Description, Disk, OpenError, Staging, StagingError};
use crate::manifest::{Manifest, Parent, SnapshotId};
use crate::memory::{MemoryError, MemoryWriter};

/// Why a chain cannot be merged.
#[derive(Debug, Error)]
pub enum MergeError {
    /// Reading the chain.
    #[error("cannot read the chain")]
    Open(#[from] OpenError),
    /// Writing the result.
    #[error("cannot write the merged snapshot")]
    Staging(#[from] StagingError),
    /// Moving the memory.
    #[error("cannot merge memory")]
    Memory(#[from] MemoryError),
    /// Fewer snapshots than asked for.
    #[error("cannot merge {asked} snapshots of a chain of {found}")]
    TooFew {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The parent of the result cannot be named.
    #[error("cannot find the absolute path of {path}")]
    Parent {
        /// Where it is.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Who merges, and when.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The result's id: 128 random bits.
    pub id: SnapshotId,
    /// What writes it.
    pub creator: String,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// Writes the newest `count` snapshots of `chain` as one, to `staging`'s target. With all of them the result is full, else a diff of the
/// first that is left. Configuration and state are the newest's.
///
/// # Errors
/// Where anything is damaged or cannot be written. The target is then as it was.
pub fn merge<D: Disk>(
    chain: &Chain,
    count: usize,
    staging: Staging<D>,
    stamp: Stamp,
) -> Result<Manifest, MergeError> {
    let found = chain.snapshots().len();
    if count == 0 || count > found {
        return Err(MergeError::TooFew { asked: count, found });
    }
    let newest = chain.newest().manifest();
    let parent =
        chain.snapshots().get(count).map(|left| parent(left.directory(), left.manifest().id)).transpose()?;
    let diff = parent.is_some();
    let merged = &chain.snapshots()[..count];
    let layers = merged.iter().map(super::Snapshot::memory).collect::<Result<_, _>>()?;
    let mut memory = crate::memory::MemoryChain::new(layers);
    let files = staging.create_memory_files(newest.mte.is_some())?;
    let mut writer = MemoryWriter::new(files, newest.layout.clone(), diff)?;
    memory.merge(&mut writer)?;
    let summary = writer.finish()?;
    let Stamp { id, creator, created } = stamp;
    let description = Description {
        id,
        parent,
        creator,
        created,
        arch: newest.arch.clone(),
        mte: newest.mte,
        layout: newest.layout.clone(),
    };
    let (config, _) = chain.newest().config()?;
    Ok(staging.commit(description, &config, &chain.newest().state_bytes()?, &summary)?)
}

fn parent(directory: &Path, id: SnapshotId) -> Result<Parent, MergeError> {
    let path = std::path::absolute(directory)
        .map_err(|source| MergeError::Parent { path: directory.to_owned(), source })?;
    Ok(Parent { id, path: path.to_string_lossy().into_owned() })
}
