//! vm.snapshot, on the disk's side.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use granule_api::BUILD_VERSION;
use granule_api::config::VmConfig;
use granule_snapshot::directory::{Description, OsDisk, Staging, StagingError};
use granule_snapshot::layout::{Layout, LayoutError, PageSize, Region};
use granule_snapshot::manifest::SnapshotId;
use granule_snapshot::memory::MemoryFiles;
use granule_snapshot::state::MAX_STATE;
use rustix::fs::{MemfdFlags, memfd_create};

use super::mover::{Mover, MoverStart, between, files_of};
use crate::wire::{Blame, Failure, FdSlot, MoverOrder, SavedMemory};

/// Why a snapshot is not there.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
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
            Self::Staging(StagingError::Io { .. }) => Blame::Host,
            Self::Staging(_) => Blame::Request,
            _ => Blame::Host,
        }
    }
}

/// A snapshot that is being made.
#[derive(Debug)]
pub struct Save {
    /// Where it is to be.
    target: PathBuf,
    /// `config.json`.
    config: Vec<u8>,
    /// The level of memory tagging, if any.
    mte: Option<u8>,
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
    pub fn new(target: PathBuf) -> Self {
        Self {
            target,
            config: Vec::new(),
            mte: None,
            staging: None,
            files: None,
            state: None,
            mover: None,
            memory: None,
        }
    }

    /// Takes what control knows of the machine.
    pub fn describe(&mut self, config: &VmConfig, mte: Option<u8>) -> Result<(), SaveError> {
        self.config = serde_json::to_vec_pretty(config)?;
        self.mte = mte;
        Ok(())
    }

    /// Makes the files, where nobody sees them. On a thread that may wait for the disk.
    pub fn stage(mut self: Box<Self>) -> Result<Box<Self>, SaveError> {
        let staging = Staging::create(OsDisk, &self.target, false)?;
        self.files = Some(staging.create_memory_files(self.mte.is_some())?);
        self.staging = Some(staging);
        Ok(self)
    }

    /// Starts the mover; answers the file for the machine's state and the machine's end of the socket to the mover.
    pub fn start_mover(&mut self, start: MoverStart<'_>) -> Result<(OwnedFd, OwnedFd), Failure> {
        let files = self.files.take().ok_or(SaveError::Missing("files"))?;
        let (theirs, machines) = between()?;
        let mut fds = vec![theirs.as_fd()];
        let slots = files_of(&files, &mut fds);
        let order = MoverOrder::Save { machine: FdSlot(0), files: slots };
        self.mover = Some(Mover::start(start, &order, &fds)?);
        let state = File::from(memfd_create("granule-state", MemfdFlags::CLOEXEC)?);
        let passed = state.as_fd().try_clone_to_owned()?;
        self.state = Some(state);
        Ok((passed, machines))
    }

    /// Writes the rest and makes the snapshot visible. On a thread that may wait for the disk.
    pub fn commit(mut self: Box<Self>) -> Result<Box<Self>, SaveError> {
        let staging = self.staging.take().ok_or(SaveError::Missing("directory"))?;
        let state = self.state.take().ok_or(SaveError::Missing("state"))?;
        let memory = self.memory.take().ok_or(SaveError::Missing("memory"))?;
        let page_size = PageSize::from_bytes(memory.page_size);
        let regions = memory.regions.iter().map(|&(gpa, size)| Region { gpa, size }).collect();
        let layout = Layout::new(page_size.ok_or(SaveError::PageSize(memory.page_size))?, regions)?;
        let description = Description {
            id: random_id()?,
            parent: None,
            creator: BUILD_VERSION.to_owned(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            arch: std::env::consts::ARCH.to_owned(),
            mte: self.mte,
            layout,
        };
        staging.commit(description, &self.config, &state_of(&state)?, &memory.summary())?;
        Ok(self)
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
