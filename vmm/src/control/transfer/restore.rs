//! vm.restore, on the disk's side.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use granule_api::config::VmConfig;
use granule_arch::host::HostReport;
use granule_snapshot::directory::{Chain, OpenError};
use granule_snapshot::layout::PageSize;
use granule_snapshot::manifest::{Manifest, Refusal, Target};
use rustix::fs::{MemfdFlags, memfd_create};

use super::super::vm::PassedFds;
use super::layers::Layers;
use super::mover::Mover;
use super::on_demand::{self, OnDemandError};

/// Why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// `config.json` is no configuration.
    #[error("config.json is not a VM's configuration")]
    Config(#[from] serde_json::Error),
    /// Not on this host, or not with this configuration.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A page size that is none.
    #[error("this host has pages of {0} bytes")]
    PageSize(u64),
    /// Passing state on.
    #[error("the snapshot's state cannot be passed on")]
    State(#[source] io::Error),
    /// Not on demand.
    #[error("memory_restore_mode: OnDemand cannot be had on this host")]
    OnDemand(#[from] OnDemandError),
}

/// What was found on the disk.
#[derive(Debug)]
pub struct Opened {
    /// What the newest snapshot is.
    pub manifest: Manifest,
    /// `config.json`, as it is now.
    pub config: VmConfig,
    state: File,
    layers: Layers,
}

/// A restore under way.
#[derive(Debug)]
pub struct Restore {
    source: PathBuf,
    /// Whether all of memory is touched before the guest resumes.
    pub prefault: bool,
    /// Whether the guest runs before its memory is there.
    pub on_demand: bool,
    /// The taps that came along, up to Adopt.
    pub taps: PassedFds,
    /// What that takes, `/dev/userfaultfd`, from Open to Rebuild.
    pub userfault: Option<OwnedFd>,
    /// What Open found; Rebuild takes it.
    pub opened: Option<Opened>,
    /// At work from Rebuild to Move.
    pub mover: Option<Mover>,
}

impl Restore {
    /// Nothing yet.
    pub fn new(source: PathBuf, prefault: bool, on_demand: bool, taps: PassedFds) -> Self {
        Self { source, prefault, on_demand, taps, userfault: None, opened: None, mover: None }
    }

    /// Opens the snapshot and its parents, and reads all but memory. On a thread that may wait for the disk.
    pub fn open(mut self: Box<Self>) -> Result<Box<Self>, RestoreError> {
        if self.on_demand {
            self.userfault = Some(on_demand::open()?);
        }
        let chain = Chain::open(&self.source)?;
        let (config, _) = chain.newest().config()?;
        let config = serde_json::from_slice(&config)?;
        let state = state_file(&chain.newest().state_bytes()?).map_err(RestoreError::State)?;
        let layers = Layers::open(&chain)?;
        let manifest = chain.newest().manifest().clone();
        self.opened = Some(Opened { manifest, config, state, layers });
        Ok(self)
    }
}

impl Opened {
    /// Whether it can be restored on this host by a VM with, or without, tags.
    pub fn check(&self, host: &HostReport, vm_mte: bool) -> Result<(), RestoreError> {
        let bytes = host.page_size as u64;
        let shared = host.mte.support.refusal().is_none();
        let target = Target {
            arch: std::env::consts::ARCH,
            page_size: PageSize::from_bytes(bytes).ok_or(RestoreError::PageSize(bytes))?,
            host_mte: host.mte.level.filter(|_| shared),
            vm_mte,
        };
        Ok(self.manifest.check_target(&target)?)
    }

    /// The machine's state, and its memory.
    pub fn into_parts(self) -> (OwnedFd, Layers) {
        (self.state.into(), self.layers)
    }
}

fn state_file(bytes: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create("granule-state", MemfdFlags::CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    Ok(file)
}
