//! The messages between `control`, `machine` and the mover.
//!
//! ```text
//!  control ── MoverOrder + files ──► mover ── FromMover ──► control      (a live snapshot: several of each, see `mover`)
//!  machine ── SharedMemory + memfds ──► mover          (over a socket of their own, which control made and did not keep)
//! ```

use granule_snapshot::block_file::BlockFileSummary;
use granule_snapshot::memory::MemorySummary;
use serde::{Deserialize, Serialize};

use super::message::{Failure, FdSlot};

/// What the mover is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum MoverOrder {
    /// Write guest memory to the files of a snapshot.
    Save {
        /// Where [`SharedMemory`] comes from.
        machine: FdSlot,
        /// The files, empty.
        files: FileSlots,
        /// What it is a diff of, newest first; none for a full snapshot.
        parent: Vec<LayerSpec>,
        /// Whether the guest runs meanwhile: then [`FromMover::Copied`] is told, and more orders follow.
        live: bool,
    },
    /// Copy what the log of writes names, of which each page was copied before. Answered with [`FromMover::Copied`].
    Round,
    /// That was all: complete the files. Answered with [`FromMover::Saved`].
    Complete,
    /// Write the memory of a snapshot to guest memory.
    Restore {
        /// Where [`SharedMemory`] comes from.
        machine: FdSlot,
        /// The snapshot and its parents, newest first.
        layers: Vec<LayerSpec>,
    },
    /// The same while the guest runs: pages that it touches first.
    Place {
        /// Where [`SharedMemory`] comes from, and then the machine's mapping.
        machine: FdSlot,
        /// The snapshot and its parents, newest first.
        layers: Vec<LayerSpec>,
        /// Where device processes announce what they map.
        processes: Vec<FdSlot>,
    },
}

/// The files of memory, as they are passed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FileSlots {
    /// Raw pages.
    pub memory: FdSlot,
    /// What each page's data is.
    pub pages: FdSlot,
    /// What each page's tags are.
    pub tags: Option<FdSlot>,
}

/// One snapshot of a chain.
#[derive(Debug, Serialize, Deserialize)]
pub struct LayerSpec {
    /// `manifest.json`, as it was written.
    pub manifest: String,
    /// Its files, open for reading.
    pub files: FileSlots,
}

/// Guest memory, as the machine shares it: descriptors in the order of the regions.
#[derive(Debug, Serialize, Deserialize)]
pub struct SharedMemory {
    /// The regions, ascending.
    pub regions: Vec<SharedRegion>,
    /// The size of the log of writes, where writes are logged: its file is the last of the descriptors.
    #[serde(default)]
    pub log: Option<u64>,
}

/// One region of guest memory; the whole of its file from `offset` on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SharedRegion {
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Where in its file it begins.
    pub offset: u64,
}

/// What the mover tells control.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromMover {
    /// So far.
    Progress {
        /// Pages that were looked at.
        done: u64,
        /// Of so many.
        of: u64,
    },
    /// A live snapshot's round is done.
    Copied {
        /// Pages that it copied.
        pages: u64,
    },
    /// A guest runs whose memory is being placed.
    Placed {
        /// Pages that were looked at.
        done: u64,
        /// Of so many.
        of: u64,
        /// Pages that were waited for.
        faults: u64,
    },
    /// Memory is saved.
    Saved(SavedMemory),
    /// Memory is restored.
    Restored,
    /// It could not be.
    Failed(Failure),
}

/// What the manifest has to say of memory that was saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedMemory {
    /// Bytes in a page.
    pub page_size: u64,
    /// Guest physical address and bytes of each region.
    pub regions: Vec<(u64, u64)>,
    /// The length of `memory`.
    pub memory_size: u64,
    /// Length and checksum of `pages`.
    pub pages: (u64, u32),
    /// Length and checksum of `tags`.
    pub tags: Option<(u64, u32)>,
}

impl SavedMemory {
    /// As the snapshot's writer wants it.
    pub fn summary(&self) -> MemorySummary {
        let summary = |(size, sum)| BlockFileSummary { size, sum };
        MemorySummary {
            memory_size: self.memory_size,
            pages: summary(self.pages),
            tags: self.tags.map(summary),
        }
    }
}
