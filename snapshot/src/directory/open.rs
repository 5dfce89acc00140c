//! Opens a snapshot, and the chain of those that it is a diff of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{CONFIG, MANIFEST, MEMORY, OpenError, PAGES, STATE, TAGS};
use crate::manifest::{FileSum, MAX_MANIFEST, Manifest, Parent};
use crate::memory::{MemoryChain, MemoryFiles, MemoryLayer};
use crate::state::{MAX_STATE, StateReader};

/// The longest `config.json`.
pub const MAX_CONFIG: u64 = 4 << 20;

/// One snapshot: its manifest is read and checked, and its files are there with their lengths.
#[derive(Clone, Debug)]
pub struct Snapshot {
    directory: PathBuf,
    manifest: Manifest,
}

impl Snapshot {
    /// Opens the snapshot in a directory.
    ///
    /// # Errors
    /// Where there is none, or it is damaged as far as that is seen without reading its memory.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(MANIFEST);
        let bytes = match read(&path, MAX_MANIFEST) {
            Err(OpenError::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(OpenError::NotASnapshot(directory.to_owned()));
            }
            bytes => bytes?,
        };
        let manifest = Manifest::decode(&bytes).map_err(|source| OpenError::Manifest { path, source })?;
        let snapshot = Self { directory: directory.to_owned(), manifest };
        let manifest = &snapshot.manifest;
        let lengths = [
            (STATE, Some(manifest.state.size)),
            (MEMORY, Some(manifest.layout.bytes())),
            (PAGES, Some(manifest.pages.size)),
            (TAGS, manifest.tags.map(|tags| tags.size)),
        ];
        for (name, expected) in lengths {
            let Some(expected) = expected else { continue };
            let path = snapshot.path(name);
            let (_, found) = open(&path)?;
            if found != expected {
                return Err(OpenError::Length { path, found, expected });
            }
        }
        Ok(snapshot)
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads `config.json` as it is now, and whether it is as it was written. People and runtimes may edit it.
    ///
    /// # Errors
    /// Where it cannot be read or is too long.
    pub fn config(&self) -> Result<(Vec<u8>, bool), OpenError> {
        let bytes = read(&self.path(CONFIG), MAX_CONFIG)?;
        let as_written = FileSum::of(&bytes) == self.manifest.config;
        Ok((bytes, as_written))
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn state(&self) -> Result<StateReader, OpenError> {
        let path = self.path(STATE);
        StateReader::decode(&self.state_bytes()?).map_err(|source| OpenError::State { path, source })
    }

    /// Reads the bytes of `state.json`, whose checksum is right.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn state_bytes(&self) -> Result<Vec<u8>, OpenError> {
        let path = self.path(STATE);
        let bytes = read(&path, MAX_STATE)?;
        if FileSum::of(&bytes) == self.manifest.state { Ok(bytes) } else { Err(OpenError::Sum(path)) }
    }

    /// Opens the memory files for reading, to be given to who reads them.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub fn memory_files(&self) -> Result<MemoryFiles<File>, OpenError> {
        let file = |name| open(&self.path(name)).map(|(file, _)| file);
        Ok(MemoryFiles {
            memory: file(MEMORY)?,
            pages: file(PAGES)?,
            tags: self.manifest.tags.map(|_| file(TAGS)).transpose()?,
        })
    }

    /// Opens the memory.
    ///
    /// # Errors
    /// Where its files cannot be opened, or their headers are not those that the manifest is about.
    pub fn memory(&self) -> Result<MemoryLayer<File>, OpenError> {
        MemoryLayer::open_of(self.memory_files()?, &self.manifest)
            .map_err(|source| OpenError::Memory { path: self.directory.clone(), source })
    }

    /// Where the parent should be.
    #[must_use]
    pub fn parent_directory(&self) -> Option<PathBuf> {
        self.manifest.parent.as_ref().map(|Parent { path, .. }| self.directory.join(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A snapshot and all that it is a diff of, newest first; all of one machine, and the last of them full.
#[derive(Clone, Debug)]
pub struct Chain {
    snapshots: Vec<Snapshot>,
}

impl Chain {
    /// Opens the snapshot in a directory with all its parents.
    ///
    /// # Errors
    /// Where one of them is missing, is not the one that it was, or does not fit.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let mut snapshots = vec![Snapshot::open(directory)?];
        while let Some(Parent { id, .. }) = snapshots[snapshots.len() - 1].manifest.parent.clone() {
            let child = &snapshots[snapshots.len() - 1];
            let path = child.directory.clone();
            let parent_path = child.parent_directory().unwrap_or_default();
            if snapshots.iter().any(|known| known.manifest.id == id) {
                return Err(OpenError::Cycle(path));
            }
            let parent = Snapshot::open(&parent_path).map_err(|source| OpenError::MissingParent {
                path: path.clone(),
                parent: parent_path.clone(),
                source: Box::new(source),
            })?;
            if parent.manifest.id != id {
                let (expected, found) = (id.to_string(), parent.manifest.id.to_string());
                return Err(OpenError::OtherParent { path, parent: parent_path, expected, found });
            }
            if let Some(what) = difference(&child.manifest, &parent.manifest) {
                return Err(OpenError::Differ { path, parent: parent_path, what });
            }
            snapshots.push(parent);
        }
        Ok(Self { snapshots })
    }

    /// The snapshots, newest first; at least one.
    #[must_use]
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// The snapshot that was asked for.
    #[must_use]
    pub fn newest(&self) -> &Snapshot {
        &self.snapshots[0]
    }

    /// Opens the memory of all.
    ///
    /// # Errors
    /// As [`Snapshot::memory`].
    pub fn memory(&self) -> Result<MemoryChain<File>, OpenError> {
        Ok(MemoryChain::new(self.snapshots.iter().map(Snapshot::memory).collect::<Result<_, _>>()?))
    }
}

/// In what two snapshots differ that a diff and its parent must have the same.
fn difference(one: &Manifest, other: &Manifest) -> Option<&'static str> {
    let differences = [
        (one.arch != other.arch, "architecture"),
        (one.layout.page_size() != other.layout.page_size(), "page size"),
        (one.layout != other.layout, "memory regions"),
        (one.mte != other.mte, "memory tagging"),
    ];
    differences.into_iter().find(|(differ, _)| *differ).map(|(_, what)| what)
}

/// Opens a file for reading, with its length. A pipe in its place must not make us wait.
fn open(path: &Path) -> Result<(File, u64), OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(OpenError::NotAFile(path.to_owned())) }
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, OpenError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    if bytes.len() as u64 > most {
        return Err(OpenError::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}
