//! vm.snapshot, on the disk's side.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use granule_api::BUILD_VERSION;
use granule_api::config::VmConfig;
use granule_snapshot::directory::{Chain, Description, OpenError, OsDisk, Staging, StagingError};
use granule_snapshot::layout::{Layout, LayoutError, PageSize, Region};
use granule_snapshot::manifest::{Manifest, Parent, SnapshotId};
use granule_snapshot::memory::MemoryFiles;
use granule_snapshot::state::MAX_STATE;
use rustix::fs::{MemfdFlags, memfd_create};

use super::layers::Layers;
use super::mover::{Mover, MoverStart, between, files_of};
use crate::wire::{Blame, Failure, FdSlot, MoverOrder, SavedMemory};

/// So many pages are copied in a moment: not worth another round.
const FEW_PAGES: u64 = 512;
/// A guest that writes faster than the mover is stopped after so many rounds.
const MAX_ROUNDS: usize = 8;

/// Why a snapshot is not there.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// What it is to be a diff of.
    #[error("the parent cannot be used")]
    Parent(#[from] OpenError),
    /// That is of a machine with which this one cannot be compared.
    #[error(
        "{parent} cannot be the parent: it is a snapshot of another machine, with {theirs} and not {ours}"
    )]
    OtherMachine {
        /// Where it is.
        parent: PathBuf,
        /// In what it differs.
        theirs: String,
        /// What this one has.
        ours: String,
    },
    /// That has too many parents of its own.
    #[error(
        "{parent} is the end of a chain of {found} snapshots; no more than {} can be read together: merge some (granule snapshot merge)",
        Layers::MOST
    )]
    Chain {
        /// Where it is.
        parent: PathBuf,
        /// How many.
        found: usize,
    },
    /// Its path cannot be written down.
    #[error("the path {0} is no text, as the parent's must be")]
    ParentPath(PathBuf),
    /// A step before this one left nothing.
    #[error("the snapshot's {0} is missing")]
    Missing(&'static str),
    /// What the machine wrote.
    #[error("the machine's state cannot be read")]
    State(#[source] io::Error),
    /// Too much of it.
    #[error("the machine's state of {0} bytes is longer than {MAX_STATE}")]
    TooLong(u64),
    /// The configuration.
    #[error("the configuration cannot be written")]
    Config(#[from] serde_json::Error),
    /// What the mover says of memory.
    #[error("the mover says what cannot be of guest memory")]
    Layout(#[from] LayoutError),
    /// A page size that is none.
    #[error("the mover speaks of pages of {0} bytes")]
    PageSize(u64),
    /// Randomness.
    #[error("there are no random numbers for the snapshot's name")]
    Random(#[source] io::Error),
}

impl SaveError {
    /// A target that cannot be one is the request's to mend.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Staging(StagingError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotADirectory =>
            {
                Blame::Request
            }
            Self::Staging(StagingError::Io { .. }) => Blame::Host,
            Self::Staging(_) => Blame::Request,
            Self::Parent(_) | Self::OtherMachine { .. } | Self::Chain { .. } | Self::ParentPath(_) => {
                Blame::Request
            }
            _ => Blame::Host,
        }
    }
}

/// What the machine is, as far as a parent must be of the same.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// The level of memory tagging, if any.
    pub mte: Option<u8>,
    /// The host's page size.
    pub page_size: Option<PageSize>,
    /// Bytes of RAM, where that is all there is.
    pub memory: Option<u64>,
}

/// What a snapshot is a diff of.
#[derive(Debug)]
struct Base {
    parent: Parent,
    layers: Layers,
}

/// A snapshot that is being made.
#[derive(Debug)]
pub struct Save {
    /// Where it is to be.
    target: PathBuf,
    /// `config.json`.
    config: Vec<u8>,
    of: Saved,
    /// What it is to be a diff of.
    parent: Option<PathBuf>,
    base: Option<Base>,
    /// Whether the guest runs meanwhile.
    pub live: bool,
    /// Pages that each round has copied.
    pub rounds: Vec<u64>,
    /// How long the guest stood still.
    pub paused_us: u64,
    staging: Option<Staging<OsDisk>>,
    files: Option<MemoryFiles<File>>,
    state: Option<File>,
    /// At work from Save to Move.
    pub mover: Option<Mover>,
    /// What the mover has written.
    pub memory: Option<SavedMemory>,
}

impl Save {
    /// Nothing yet.
    pub fn new(target: PathBuf, parent: Option<PathBuf>, of: Saved, live: bool) -> Self {
        Self {
            target,
            config: Vec::new(),
            of,
            parent,
            base: None,
            live,
            rounds: Vec::new(),
            paused_us: 0,
            staging: None,
            files: None,
            state: None,
            mover: None,
            memory: None,
        }
    }

    /// Takes the configuration of the machine.
    pub fn describe(&mut self, config: &VmConfig) -> Result<(), SaveError> {
        self.config = serde_json::to_vec_pretty(config)?;
        Ok(())
    }

    /// Pages that were copied again, since somebody had written to them.
    pub fn dirty_pages(&self) -> u64 {
        self.rounds.iter().skip(1).sum()
    }

    /// Opens the parent, and makes the files where nobody sees them. On a thread that may wait for the disk.
    pub fn stage(mut self: Box<Self>) -> Result<Box<Self>, SaveError> {
        self.base = self.parent.as_deref().map(|parent| Base::open(parent, self.of)).transpose()?;
        let staging = Staging::create(OsDisk, &self.target, false)?;
        self.files = Some(staging.create_memory_files(self.of.mte.is_some())?);
        self.staging = Some(staging);
        Ok(self)
    }

    /// Starts the mover; answers the machine's end of the socket to it.
    pub fn start_mover(&mut self, start: MoverStart<'_>) -> Result<OwnedFd, Failure> {
        let files = self.files.take().ok_or(SaveError::Missing("files"))?;
        let (theirs, machines) = between()?;
        let mut fds = vec![theirs.as_fd()];
        let slots = files_of(&files, &mut fds);
        let parent = self.base.as_ref().map(|base| base.layers.specs(&mut fds)).unwrap_or_default();
        let order = MoverOrder::Save { machine: FdSlot(0), files: slots, parent, live: self.live };
        self.mover = Some(Mover::start(start, &order, &fds)?);
        Ok(machines)
    }

    /// Makes the file for the machine's state.
    pub fn state_file(&mut self) -> Result<OwnedFd, SaveError> {
        let made = memfd_create("granule-state", MemfdFlags::CLOEXEC);
        let state = File::from(made.map_err(|errno| SaveError::State(errno.into()))?);
        let passed = state.as_fd().try_clone_to_owned().map_err(SaveError::State)?;
        self.state = Some(state);
        Ok(passed)
    }

    /// Whether the guest should run on for another round: while there is much to copy, and less each time.
    pub fn another_round(&self) -> bool {
        match *self.rounds.as_slice() {
            [.., before, last] => {
                self.rounds.len() < MAX_ROUNDS && last > FEW_PAGES && last < before - before / 4
            }
            [first] => first > FEW_PAGES,
            [] => false,
        }
    }

    /// Writes the rest and makes the snapshot visible. On a thread that may wait for the disk.
    pub fn commit(mut self: Box<Self>) -> Result<Box<Self>, SaveError> {
        let staging = self.staging.take().ok_or(SaveError::Missing("directory"))?;
        let state = self.state.take().ok_or(SaveError::Missing("state"))?;
        let memory = self.memory.clone().ok_or(SaveError::Missing("memory"))?;
        let page_size = PageSize::from_bytes(memory.page_size);
        let regions = memory.regions.iter().map(|&(gpa, size)| Region { gpa, size }).collect();
        let layout = Layout::new(page_size.ok_or(SaveError::PageSize(memory.page_size))?, regions)?;
        let description = Description {
            id: random_id()?,
            parent: self.base.as_ref().map(|base| base.parent.clone()),
            creator: BUILD_VERSION.to_owned(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            arch: std::env::consts::ARCH.to_owned(),
            mte: self.of.mte,
            layout,
        };
        staging.commit(description, &self.config, &state_of(&state)?, &memory.summary())?;
        Ok(self)
    }
}

impl Base {
    /// Opens a snapshot with its parents, which must be of such a machine.
    fn open(directory: &Path, of: Saved) -> Result<Self, SaveError> {
        let chain = Chain::open(directory)?;
        let parent = || directory.to_owned();
        let Manifest { id, arch, mte, layout, .. } = chain.newest().manifest();
        let tags = |mte: Option<u8>| {
            mte.map_or("no memory tagging".to_owned(), |level| format!("memory tagging of level {level}"))
        };
        let pages = |size: PageSize| format!("pages of {} bytes", size.bytes());
        let page_size = of.page_size.unwrap_or(layout.page_size());
        let memory = |bytes: u64| format!("{bytes} bytes of memory");
        let ram = layout.regions().first().map_or(0, |ram| ram.size);
        let facts = [
            (format!("architecture {arch}"), format!("architecture {}", std::env::consts::ARCH)),
            (pages(layout.page_size()), pages(page_size)),
            (tags(*mte), tags(of.mte)),
            // Other memory may come behind it: the mover, which knows of that, looks again.
            (memory(ram), memory(of.memory.unwrap_or(ram))),
        ];
        if let Some((theirs, ours)) = facts.into_iter().find(|(theirs, ours)| theirs != ours) {
            return Err(SaveError::OtherMachine { parent: parent(), theirs, ours });
        }
        let found = chain.snapshots().len();
        if found >= Layers::MOST {
            return Err(SaveError::Chain { parent: parent(), found });
        }
        let path = directory.to_str().ok_or_else(|| SaveError::ParentPath(parent()))?.to_owned();
        Ok(Self { parent: Parent { id: *id, path }, layers: Layers::open(&chain)? })
    }
}

/// What the machine wrote; it may have been taken over, so this is bytes and nothing more.
fn state_of(state: &File) -> Result<Vec<u8>, SaveError> {
    let length = state.metadata().map_err(SaveError::State)?.len();
    if length > MAX_STATE {
        return Err(SaveError::TooLong(length));
    }
    // Cannot truncate: at most MAX_STATE.
    let mut bytes = vec![0; length as usize];
    state.read_exact_at(&mut bytes, 0).map_err(SaveError::State)?;
    Ok(bytes)
}

fn random_id() -> Result<SnapshotId, SaveError> {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        let more = rustix::rand::getrandom(&mut id[filled..], flags);
        filled += more.map_err(|errno| SaveError::Random(errno.into()))?;
    }
    Ok(SnapshotId(id))
}
