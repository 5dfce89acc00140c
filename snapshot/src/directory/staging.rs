//! Writes a snapshot where nobody sees it, and then makes it visible.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{CONFIG, CONTENTS, Disk, MANIFEST, MEMORY, PAGES, PARTIAL, Rename, STATE, TAGS};
use crate::file::WriteAt;
use crate::layout::Layout;
use crate::manifest::{FileSum, Manifest, Parent, SnapshotId};
use crate::memory::{MemoryFiles, MemorySummary};

/// Why a snapshot cannot be written.
#[derive(Debug, Error)]
pub enum StagingError {
    /// There is one, and it is not to be replaced.
    #[error("{0} is a snapshot already")]
    IsSnapshot(PathBuf),
    /// There is a file with a name that the snapshot needs.
    #[error("{directory} has a file {name} that is not of a snapshot")]
    Occupied {
        /// The target.
        directory: PathBuf,
        /// Which file.
        name: String,
    },
    /// Another writer is at it.
    #[error("another snapshot is being written to {0}")]
    Busy(PathBuf),
    /// The target has no name or no parent.
    #[error("{0} is not a path that a snapshot can have")]
    Path(PathBuf),
    /// The file system.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the manifest says that the files do not.
#[derive(Clone, Debug)]
pub struct Description {
    /// A new id: 128 random bits.
    pub id: SnapshotId,
    /// What it is a diff of.
    pub parent: Option<Parent>,
    /// What writes it.
    pub creator: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The architecture.
    pub arch: String,
    /// The level of memory tagging, if any.
    pub mte: Option<u8>,
    /// The memory.
    pub layout: Layout,
}

/// Where the files are until they are visible.
#[derive(Debug)]
enum Place {
    /// In a directory beside the target; `replaces`: the target is there.
    Beside { directory: PathBuf, replaces: bool },
    /// In the target, with names that begin with [`PARTIAL`].
    Inside,
}

/// A snapshot that is being written. Dropped without [`commit`](Self::commit), it leaves nothing.
#[derive(Debug)]
pub struct Staging<D: Disk> {
    disk: D,
    target: PathBuf,
    place: Place,
    committed: bool,
    _lock: D::Lock,
}

impl<D: Disk> Staging<D> {
    /// Begins a snapshot that is to be at `target`: a path that is not there, a directory without a snapshot, or, with
    /// `replace`, a snapshot. The target's parent must be there.
    ///
    /// # Errors
    /// Where the target is none of these, or the file system refuses.
    pub fn create(disk: D, target: &Path, replace: bool) -> Result<Self, StagingError> {
        // A relative path has no parent that could be synced.
        let target = &std::path::absolute(target).map_err(failed("find", target))?;
        match disk.list(target).map_err(failed("list", target))? {
            None => Self::beside(disk, target, false),
            Some(names) if names.iter().any(|name| name == MANIFEST) => {
                if !replace {
                    return Err(StagingError::IsSnapshot(target.to_owned()));
                }
                let ours =
                    |name: &str| CONTENTS.contains(&name) || name == MANIFEST || name.starts_with(PARTIAL);
                match names.into_iter().find(|name| !ours(name)) {
                    Some(name) => Err(StagingError::Occupied { directory: target.to_owned(), name }),
                    None => Self::beside(disk, target, true),
                }
            }
            Some(_) => Self::inside(disk, target),
        }
    }

    fn beside(disk: D, target: &Path, replaces: bool) -> Result<Self, StagingError> {
        let directory = name_beside(target).ok_or_else(|| StagingError::Path(target.to_owned()))?;
        match disk.create_directory(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed("make", &directory))?,
        }
        let lock = disk.lock(&directory).map_err(failed("lock", &directory))?;
        let lock = lock.ok_or_else(|| StagingError::Busy(target.to_owned()))?;
        // What a writer left that died.
        for name in disk.list(&directory).map_err(failed("list", &directory))?.unwrap_or_default() {
            let path = directory.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
        let place = Place::Beside { directory, replaces };
        Ok(Self { disk, target: target.to_owned(), place, committed: false, _lock: lock })
    }

    fn inside(disk: D, target: &Path) -> Result<Self, StagingError> {
        let lock = disk.lock(target).map_err(failed("lock", target))?;
        let lock = lock.ok_or_else(|| StagingError::Busy(target.to_owned()))?;
        let names = disk.list(target).map_err(failed("list", target))?.unwrap_or_default();
        // The partial manifest outlives the renames of all else: where it is, the rest is a dead writer's.
        let marker = format!("{PARTIAL}{MANIFEST}");
        let interrupted = names.contains(&marker);
        if let Some(name) = names.iter().find(|name| CONTENTS.contains(&name.as_str()) && !interrupted) {
            return Err(StagingError::Occupied { directory: target.to_owned(), name: name.clone() });
        }
        let ours = |name: &&String| CONTENTS.contains(&name.as_str()) || name.starts_with(PARTIAL);
        for name in names.iter().filter(ours).filter(|name| **name != marker) {
            let path = target.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
        if interrupted {
            disk.sync_directory(target).map_err(failed("sync", target))?;
            let path = target.join(marker);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
        let staging =
            Self { disk, target: target.to_owned(), place: Place::Inside, committed: false, _lock: lock };
        // A writer may have died while the target was not there yet. If it lives, its lock cannot be had.
        if let Some(directory) = name_beside(target)
            && let Ok(Some(_lock)) = staging.disk.lock(&directory)
        {
            staging.clean(&directory);
        }
        Ok(staging)
    }

    /// Makes the files for memory, to be filled by a [`MemoryWriter`](crate::memory::MemoryWriter), here or in another process.
    ///
    /// # Errors
    /// Of the file system.
    pub fn create_memory_files(&self, tags: bool) -> Result<MemoryFiles<D::File>, StagingError> {
        Ok(MemoryFiles {
            memory: self.create_file(MEMORY)?,
            pages: self.create_file(PAGES)?,
            tags: if tags { Some(self.create_file(TAGS)?) } else { None },
        })
    }

    /// Writes the other files and makes the snapshot visible. The memory files must be finished (and thereby synced).
    ///
    /// # Errors
    /// Of the file system. The target is then as it was.
    pub fn commit(
        mut self,
        description: Description,
        config: &[u8],
        state: &[u8],
        memory: &MemorySummary,
    ) -> Result<Manifest, StagingError> {
        let Description { id, parent, creator, created, arch, mte, layout } = description;
        let manifest = Manifest {
            id,
            parent,
            creator,
            created,
            arch,
            mte,
            layout,
            config: FileSum::of(config),
            state: FileSum::of(state),
            pages: memory.pages.into(),
            tags: memory.tags.map(FileSum::from),
        };
        for (name, bytes) in [(CONFIG, config), (STATE, state), (MANIFEST, &manifest.encode())] {
            let path = self.path(name);
            let file = self.create_file(name)?;
            file.write_at(bytes, 0).and_then(|()| file.sync()).map_err(failed("write", &path))?;
        }
        match &self.place {
            Place::Beside { directory, replaces } => self.show_directory(directory, *replaces)?,
            Place::Inside => self.show_files()?,
        }
        self.committed = true;
        if let Place::Beside { directory, replaces: true } = &self.place {
            // The old snapshot is there now. What cannot be removed, the next writer removes.
            self.clean(directory);
        }
        Ok(manifest)
    }

    fn show_directory(&self, directory: &Path, replaces: bool) -> Result<(), StagingError> {
        let how = if replaces { Rename::Exchange } else { Rename::New };
        self.sync_directory(directory)?;
        self.disk.rename(directory, &self.target, how).map_err(failed("make visible", &self.target))?;
        let synced = self.sync_directory(directory.parent().unwrap_or(Path::new("/")));
        if synced.is_err() {
            let _ = self.disk.rename(&self.target, directory, how);
        }
        synced
    }

    fn show_files(&self) -> Result<(), StagingError> {
        // The partial manifest must be there for good before any file has its last name.
        self.sync_directory(&self.target)?;
        let written = self.disk.list(&self.target).map_err(failed("list", &self.target))?.unwrap_or_default();
        for name in CONTENTS.into_iter().filter(|name| written.contains(&format!("{PARTIAL}{name}"))) {
            let to = self.target.join(name);
            self.disk.rename(&self.path(name), &to, Rename::New).map_err(failed("make visible", &to))?;
        }
        self.sync_directory(&self.target)?;
        let to = self.target.join(MANIFEST);
        self.disk.rename(&self.path(MANIFEST), &to, Rename::New).map_err(failed("make visible", &to))?;
        self.sync_directory(&self.target)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), StagingError> {
        self.disk.sync_directory(directory).map_err(failed("sync", directory))
    }

    fn create_file(&self, name: &str) -> Result<D::File, StagingError> {
        let path = self.path(name);
        self.disk.create(&path).map_err(failed("make", &path))
    }

    fn path(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Beside { directory, .. } => directory.join(name),
            Place::Inside => self.target.join(format!("{PARTIAL}{name}")),
        }
    }

    /// Removes a directory with all that a snapshot has, as far as that goes.
    fn clean(&self, directory: &Path) {
        for name in [MANIFEST].into_iter().chain(CONTENTS) {
            let _ = self.disk.remove(&directory.join(name));
        }
        let _ = self.disk.remove_directory(directory);
    }
}

impl<D: Disk> Drop for Staging<D> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        match &self.place {
            Place::Beside { directory, .. } => self.clean(directory),
            Place::Inside => {
                // While the partial manifest is there, what is left of the rest is known to be of a dead writer.
                let (marker, shown) = (self.path(MANIFEST), self.target.join(MANIFEST));
                let _ = self.disk.rename(&shown, &marker, Rename::New);
                for name in CONTENTS {
                    let _ = self.disk.remove(&self.path(name));
                    let _ = self.disk.remove(&self.target.join(name));
                }
                let _ = self.disk.remove(&marker);
            }
        }
    }
}

/// The directory in which a snapshot that is to be at `target` is written, if it is not written in it.
fn name_beside(target: &Path) -> Option<PathBuf> {
    let (parent, name) = (target.parent()?, target.file_name()?);
    Some(parent.join(format!(".{}.granule-partial", name.to_string_lossy())))
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StagingError + use<'a> {
    move |source| StagingError::Io { what, path: path.to_owned(), source }
}
