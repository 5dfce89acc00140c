//! Why a snapshot cannot be opened.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::MANIFEST;
use crate::manifest::ManifestError;
use crate::memory::MemoryError;
use crate::state::StateError;

/// Why a snapshot cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No such directory, or one without a manifest.
    #[error("{0} is not a snapshot: it has no {MANIFEST}")]
    NotASnapshot(PathBuf),
    /// A file cannot be opened or read.
    #[error("cannot read {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a pipe, …
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    /// Longer than it can be.
    #[error("{path} is longer than {most} bytes")]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The most that it can be.
        most: u64,
    },
    /// The manifest is wrong.
    #[error("{path}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A file is truncated, or has grown.
    #[error("{path} has {found} bytes; the manifest says {expected}")]
    Length {
        /// Which.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// By the manifest.
        expected: u64,
    },
    /// A file is not the one that the manifest is about.
    #[error("{0} is damaged: its checksum is not the manifest's")]
    Sum(PathBuf),
    /// The state is wrong.
    #[error("{path}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
    /// A memory file is wrong.
    #[error("memory of {path}")]
    Memory {
        /// Which snapshot.
        path: PathBuf,
        /// Why.
        source: MemoryError,
    },
    /// What a diff is a diff of is not where it was.
    #[error("{path} is a diff of {parent}, which cannot be opened")]
    MissingParent {
        /// The diff.
        path: PathBuf,
        /// Where its parent should be.
        parent: PathBuf,
        /// Why not.
        source: Box<OpenError>,
    },
    /// Another snapshot is where a diff's parent was.
    #[error("{path} is a diff of snapshot {expected}, and {parent} is now another ({found})")]
    OtherParent {
        /// The diff.
        path: PathBuf,
        /// Where its parent was.
        parent: PathBuf,
        /// The parent's id.
        expected: String,
        /// The id found.
        found: String,
    },
    /// A diff and its parent are not of one machine.
    #[error("{path} and {parent}, of which it is a diff, differ in {what}")]
    Differ {
        /// The diff.
        path: PathBuf,
        /// Its parent.
        parent: PathBuf,
        /// In what.
        what: &'static str,
    },
    /// A diff of itself.
    #[error("{0} is, through its parents, a diff of itself")]
    Cycle(PathBuf),
}
