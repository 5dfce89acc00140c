//! A plan: the steps that answer one request, run one after the other.
//!
//! `machine` answers one command at a time, so a request such as vm.reboot is a queue of steps, each of which is
//! started, awaited and settled by the driver. While a plan is under way the driver goes on answering vmm.ping and
//! vm.info; other requests wait their turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use granule_api::config::VmConfig;
use granule_api::error::ApiError;
use granule_api::server::Reply;
use tokio::sync::oneshot;

use super::addition::{Addition, NewDevice};
use super::transfer::Transfer;
use super::vm::PassedFds;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Learn what the host can do.
    Probe,
    /// Check the plan's configuration and take it.
    Create,
    /// Connect to the programs that serve devices.
    Connect,
    /// Spawn devices, build the machine, start it.
    Boot,
    /// Stop the vCPUs.
    Pause,
    /// Start them again.
    Resume,
    /// Press the power button.
    PowerButton,
    /// Tear the machine down, end the devices.
    Stop,
    /// Forget the configuration.
    Forget,
    /// Check the device that the plan adds to a guest that runs.
    Admit,
    /// Connect to the program that serves it, if one does.
    ConnectNew,
    /// Start its process, put it into a slot.
    Add,
    /// Ask the guest to let go of a device.
    Remove,
    /// Give a device whose process died its successor.
    Replace,
    /// Tell the guest that a device is served by nobody.
    Orphan,
    /// Give the plan's device its order.
    Order,
    /// Have the guest told that the configuration of the plan's device has changed.
    ConfigChanged,
    /// Make the files of a snapshot.
    Stage,
    /// Have writes to a guest that runs logged, and the mover begin.
    Track,
    /// Decide whether another round is worth it before the guest is stopped.
    Pace,
    /// Have KVM's log given to the mover.
    Harvest,
    /// Have the mover copy what the log names.
    Copy,
    /// Have the machine write its state and pass its memory to the mover.
    Save,
    /// Let the guest run on.
    Release,
    /// Have the mover complete its files.
    Complete,
    /// Wait until the mover has moved memory.
    Move,
    /// Make the snapshot visible.
    Commit,
    /// Open the snapshot that is to be restored.
    Open,
    /// Make its configuration the VM's.
    Adopt,
    /// Spawn devices, build the machine up to its memory.
    Rebuild,
    /// Build the rest.
    Finish,
    /// Tell that there is a snapshot, and how long the guest stood still for it.
    TellSaved,
    /// Tell an event of the machine.
    Tell(&'static str),
    /// End everything with this code.
    Exit(u8),
}

impl Step {
    /// What a client is told first when the step fails.
    pub fn failure(self) -> &'static str {
        match self {
            Self::Probe => "The host could not be looked at",
            Self::Create => "The VM could not be created",
            Self::Connect | Self::Boot => "The VM could not boot",
            Self::Pause => "The VM could not be paused",
            Self::Resume => "The VM could not resume",
            Self::PowerButton => "The power button could not be pressed",
            Self::Stop => "The VM could not shutdown",
            Self::Admit | Self::ConnectNew | Self::Add => "The device could not be added to the VM",
            Self::Remove => "The device could not be removed from the VM",
            Self::Orphan => "The guest could not be told",
            Self::Replace => "The device could not be taken up again",
            Self::Order => "The device could not do it",
            Self::Stage
            | Self::Track
            | Self::Pace
            | Self::Harvest
            | Self::Copy
            | Self::Save
            | Self::Release
            | Self::Complete
            | Self::Commit => "The VM could not be snapshotted",
            Self::Move => "Guest memory could not be moved",
            Self::Open | Self::Adopt | Self::Rebuild | Self::Finish => "The VM could not be restored",
            Self::ConfigChanged => "The guest could not be told",
            Self::Forget | Self::Tell(_) | Self::TellSaved | Self::Exit(_) => "The request failed",
        }
    }
}

/// How far starting a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// `machine` will answer under this id.
    Awaits(u32),
}

/// Where a plan's end is told.
#[derive(Debug)]
pub enum Audience {
    /// A client waits for it.
    Client(oneshot::Sender<Result<Reply, ApiError>>, Reply),
    /// Nobody waits; a failure is logged.
    Log,
    /// The command line asked: a failure ends the program with this code and the causes on stderr.
    CommandLine,
}

impl Audience {
    /// Tells that all steps are done.
    pub fn succeed(self) {
        if let Self::Client(reply, success) = self {
            // A client that hung up does not want to know.
            let _ = reply.send(Ok(success));
        }
    }

    /// Tells that a step failed; answers whether the program has to end for it.
    pub fn fail(self, error: ApiError) -> bool {
        match self {
            Self::Client(reply, _) => {
                let _ = reply.send(Err(error));
                false
            }
            Self::Log => false,
            Self::CommandLine => {
                eprintln!("granule: {}", error.causes().join(": "));
                true
            }
        }
    }
}

/// Steps to go, and who wants to know.
#[derive(Debug)]
pub struct Plan {
    /// What is being done, for messages: "boot", "reboot", …
    pub name: &'static str,
    /// Steps not yet started.
    pub steps: VecDeque<Step>,
    /// Who is told.
    pub audience: Audience,
    /// The configuration that [`Step::Create`] takes.
    pub config: Option<Box<VmConfig>>,
    /// Descriptors that go with it, by the name of the device that they are for.
    pub passed: PassedFds,
    /// The device that [`Step::Admit`] checks.
    pub new_device: Option<NewDevice>,
    /// What it has found: the device that [`Step::Add`] adds.
    pub addition: Option<Box<Addition>>,
    /// The device that [`Step::Replace`], [`Step::Remove`] or [`Step::ConfigChanged`] is about.
    pub device: Option<String>,
    /// What each [`Step::Order`] says, and to which device; that one is the plan's from then on.
    pub orders: VecDeque<(String, Vec<u8>)>,
    /// The connection that [`Step::Replace`] goes on with; a new process is started where there is none.
    pub socket: Option<OwnedFd>,
    /// What the steps of vm.snapshot and vm.restore hand on.
    pub transfer: Option<Transfer>,
    /// Which guest it is about, counted from the first boot; `None` where it is about no guest in particular.
    pub guest: Option<u64>,
    /// The step under way and the id of the command it waits for.
    pub awaiting: Option<(Step, u32)>,
}

impl Plan {
    /// A plan of these steps.
    pub fn new(name: &'static str, steps: impl IntoIterator<Item = Step>, audience: Audience) -> Self {
        Self {
            name,
            steps: steps.into_iter().collect(),
            audience,
            config: None,
            passed: PassedFds::new(),
            new_device: None,
            addition: None,
            device: None,
            orders: VecDeque::new(),
            socket: None,
            transfer: None,
            guest: None,
            awaiting: None,
        }
    }
}
