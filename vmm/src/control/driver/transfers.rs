//! The steps of vm.snapshot and vm.restore.

use std::os::fd::{AsFd, OwnedFd};

use granule_api::config::{MemoryRestoreMode, MteRequest, RestoreConfig, VmConfig, VmSnapshotConfig};
use granule_api::error::{ApiError, ErrorKind};
use granule_api::server::Reply;
use granule_api::types::WorkInfo;
use granule_snapshot::layout::PageSize;
use tokio::sync::oneshot;

use super::super::admission::Lifecycle;
use super::super::boot::Begin;
use super::super::create;
use super::super::devices;
use super::super::plan::{Audience, Plan, Progress, Step};
use super::super::refusal::{from_failure, refusal};
use super::super::transfer::on_demand::Placing;
use super::super::transfer::{
    self, Moved, MoverStart, Restore, RestoreError, Save, Saved, Transfer, net_fds,
};
use super::super::vm::{Live, MteDecision, Vm};
use super::super::watchdog_end;
use super::{Driver, Event};
use crate::wire::{Blame, Command, Failure, FdSlot, FromMover, Outcome};

/// The steps of a snapshot of a guest that stands still.
const STANDING: &[Step] =
    &[Step::Tell("snapshotting"), Step::Stage, Step::Save, Step::Move, Step::Commit, Step::TellSaved];

/// The steps of one of a guest that runs; between `Pace` and `Save` come as many rounds as are worth it.
const LIVE: &[Step] = &[
    Step::Tell("snapshotting"),
    Step::Stage,
    Step::Track,
    Step::Move,
    Step::Pace,
    Step::Save,
    Step::Copy,
    Step::Release,
    Step::Complete,
    Step::Commit,
    Step::TellSaved,
];

/// The plans that move memory.
const TRANSFERS: [&str; 2] = ["snapshot", "restore"];

type Answer = oneshot::Sender<Result<Reply, ApiError>>;

impl Driver {
    /// vm.snapshot.
    pub(super) fn plan_snapshot(&mut self, body: &VmSnapshotConfig, reply: Answer) {
        let live = body.live && self.vm.lifecycle() == Lifecycle::Running;
        let steps = if live { LIVE } else { STANDING };
        let transfer = self.admit_snapshot(body, live);
        self.begin_transfer("snapshot", steps, transfer, Audience::Client(reply, Reply::Empty204));
    }

    /// vm.restore; `fds` are the taps that came along.
    pub(super) fn plan_restore(&mut self, body: &RestoreConfig, fds: Vec<OwnedFd>, audience: Audience) {
        let mut steps = vec![
            Step::Tell("restoring"),
            Step::Open,
            Step::Adopt,
            Step::Connect,
            Step::Rebuild,
            Step::Move,
            Step::Finish,
            Step::Tell("restored"),
        ];
        if body.memory_restore_mode == MemoryRestoreMode::OnDemand {
            steps.retain(|step| *step != Step::Move);
        }
        if body.resume {
            steps.push(Step::Resume);
        }
        self.begin_transfer("restore", &steps, admit_restore(body, fds), audience);
    }

    fn begin_transfer(
        &mut self,
        name: &'static str,
        steps: &[Step],
        transfer: Result<Transfer, ApiError>,
        audience: Audience,
    ) {
        match transfer {
            Ok(transfer) => {
                let mut plan = Plan::new(name, steps.iter().copied(), audience);
                plan.transfer = Some(transfer);
                self.moved_pages = (0, 0);
                self.queue(plan);
            }
            Err(error) => self.deny(audience, error),
        }
    }

    fn admit_snapshot(&self, body: &VmSnapshotConfig, live: bool) -> Result<Transfer, ApiError> {
        let VmSnapshotConfig { destination_url, live: _, parent } = body;
        let target = transfer::directory("destination_url", destination_url)?;
        let parent = parent.as_ref().map(|url| transfer::directory("parent", url)).transpose()?;
        let Vm::Live(created, guest) = &self.vm else { return Err(ApiError::not_created()) };
        if let Some(id) = leaving(&created.config, guest) {
            let reason = format!(
                "the guest has not let go of `{id}` yet, whose removal was asked for; the event removed tells when it has"
            );
            return Err(refusal(ErrorKind::WrongState, "The VM could not be snapshotted").because(&reason));
        }
        let page_size = self.host.report().map(|host| host.page_size as u64);
        let of = Saved {
            mte: Some(guest.report.mte.level).filter(|_| guest.report.mte.enabled),
            page_size: page_size.and_then(PageSize::from_bytes),
            memory: created.checked.memory.hotplug.is_none().then_some(created.checked.memory.size),
        };
        let mut save = Box::new(Save::new(target, parent, of, live));
        save.describe(&created.config).map_err(|error| failed(Step::Stage, &error.into()))?;
        Ok(Transfer::Save(save))
    }

    /// Starts a step of a transfer.
    pub(super) fn start_transfer(&mut self, step: Step, plan: &mut Plan) -> Result<Progress, ApiError> {
        let Some(transfer) = plan.transfer.take() else {
            return Err(refusal(ErrorKind::Internal, "a plan without its transfer"));
        };
        match (step, transfer) {
            (Step::Stage, Transfer::Save(save)) => self.on_disk(move || {
                save.stage().map(Transfer::Save).map_err(|error| {
                    let blame = error.blame();
                    Failure::from(error).blamed(blame)
                })
            }),
            (Step::Commit, Transfer::Save(save)) => {
                self.on_disk(move || save.commit().map(Transfer::Save).map_err(Failure::from))
            }
            (Step::Open, Transfer::Restore(restore)) => self.on_disk(move || {
                let opened = restore.open().map(Transfer::Restore);
                opened.map_err(|error| Failure::from(error).blamed(Blame::Request))
            }),
            (Step::Save, Transfer::Save(mut save)) => {
                let state = save.state_file().map_err(|error| failed(step, &error.into()))?;
                let mover = if save.live { None } else { Some(self.start_saving(step, &mut save)?) };
                plan.transfer = Some(Transfer::Save(save));
                let command = Command::Save { state: FdSlot(0), mover: mover.as_ref().map(|_| FdSlot(1)) };
                let fds: Vec<_> = [&state].into_iter().chain(&mover).map(AsFd::as_fd).collect();
                self.command(command, &fds)
            }
            (
                Step::Track | Step::Pace | Step::Harvest | Step::Copy | Step::Release | Step::Complete,
                Transfer::Save(save),
            ) => self.start_live(step, save, plan),
            (Step::Move, mut transfer) => {
                let mover = transfer.mover();
                let progress = match mover.as_mut().map(|mover| (mover.id, mover.result.take())) {
                    None => return Err(refusal(ErrorKind::Internal, "no mover is at work")),
                    Some((id, None)) => Progress::Awaits(id),
                    Some((_, Some(message))) => {
                        transfer.moved(message).map_err(|failure| failed(step, &failure))?;
                        Progress::Done
                    }
                };
                plan.transfer = Some(transfer);
                Ok(progress)
            }
            (Step::Adopt, Transfer::Restore(mut restore)) => {
                let adopted = self.adopt(&mut restore);
                plan.transfer = Some(Transfer::Restore(restore));
                adopted.map(|()| Progress::Done)
            }
            (Step::Rebuild, Transfer::Restore(restore)) => self.start_rebuild(restore, plan),
            (Step::Finish, transfer) => {
                plan.transfer = Some(transfer);
                self.command(Command::Finish, &[])
            }
            _ => Err(refusal(ErrorKind::Internal, "a step of another transfer")),
        }
    }

    /// Does work that waits for the disk; the plan goes on when it is done.
    fn on_disk(
        &mut self,
        work: impl FnOnce() -> Result<Transfer, Failure> + Send + 'static,
    ) -> Result<Progress, ApiError> {
        let awaited = self.link.skip_id();
        let post = self.post.clone();
        tokio::task::spawn_blocking(move || {
            // The driver is gone only when everything ends.
            let _ = post.send(Event::Worked(awaited, work()));
        });
        Ok(Progress::Awaits(awaited))
    }

    pub(super) fn on_worked(&mut self, id: u32, worked: Result<Transfer, Failure>) {
        let outcome = worked.map(|transfer| {
            if let Some(plan) = self.plan.as_mut() {
                plan.transfer = Some(transfer);
            }
            Outcome::Done
        });
        self.on_reply(id, outcome);
    }

    /// The transfer that is under way, for vm.info.
    pub(super) fn work(&self) -> Option<WorkInfo> {
        let plan = self.plan.as_ref().filter(|plan| TRANSFERS.contains(&plan.name))?;
        let (done, of) = self.moved_pages;
        Some(WorkInfo { what: plan.name.to_owned(), done, of })
    }

    pub(super) fn on_moved(&mut self, moved: Moved) {
        let Some(moved) = self.on_placed(moved) else { return };
        if let FromMover::Progress { done, of } = moved.message {
            self.moved_pages = (done, of);
            if let Some(WorkInfo { what, done, of }) = self.work() {
                self.events.tell_progress(&what, done, of);
            }
            return;
        }
        let Some(plan) = self.plan.as_mut() else { return };
        let Some(transfer) = plan.transfer.as_mut() else { return };
        let Some(mover) = transfer.mover().as_mut().filter(|mover| mover.said(&moved)) else { return };
        let (id, message) = (mover.id, moved.message);
        let awaited = plan.awaiting.is_some_and(|(_, awaited)| awaited == id);
        if !awaited {
            mover.result = Some(message);
            return;
        }
        let outcome = transfer.moved(message).map(|()| Outcome::Done);
        self.on_reply(id, outcome);
    }

    /// Starts the mover of a snapshot; answers the machine's end of the socket to it.
    pub(super) fn start_saving(&mut self, step: Step, save: &mut Save) -> Result<OwnedFd, ApiError> {
        let id = self.link.skip_id();
        save.start_mover(self.mover_start(id)).map_err(|failure| failed(step, &failure))
    }

    pub(super) fn mover_start(&self, id: u32) -> MoverStart<'_> {
        MoverStart {
            executable: self.children.executable(),
            seccomp: self.children.seccomp(),
            id,
            post: self.post.clone(),
        }
    }

    /// Makes the snapshot's configuration this VM's, if it can run here.
    fn adopt(&mut self, restore: &mut Restore) -> Result<(), ApiError> {
        let Some(opened) = &mut restore.opened else {
            return Err(refusal(ErrorKind::Internal, "no snapshot was opened"));
        };
        let mut config = opened.config.clone();
        if restore.prefault {
            config.memory.prefault = true;
        }
        let taps = std::mem::take(&mut restore.taps);
        net_fds::give(&mut config, &taps).map_err(|error| {
            refusal(ErrorKind::BadRequest, Step::Adopt.failure()).because(error.to_string())
        })?;
        let asked = config.cpus.features.mte.unwrap_or(self.defaults.mte);
        if asked == MteRequest::Auto && opened.manifest.mte.is_none() {
            // A machine that did without stays without, wherever it goes.
            config.cpus.features.mte = Some(MteRequest::Off);
        }
        let refused = |error: RestoreError| failed(Step::Open, &Failure::from(error).blamed(Blame::Request));
        if let Some(host) = self.host.report() {
            let off = config.cpus.features.mte.unwrap_or(self.defaults.mte) == MteRequest::Off;
            opened.check(host, !off).map_err(refused)?;
        }
        let mut created = create::create(config, &self.defaults, &self.host)?;
        if asked == MteRequest::Auto {
            // As it was asked, not as it was decided.
            created.config.cpus.features.mte.clone_from(&opened.config.cpus.features.mte);
        }
        if let Some(host) = self.host.report() {
            opened.check(host, created.mte == MteDecision::On).map_err(refused)?;
        }
        if restore.on_demand && !devices::targets(&created.checked).is_empty() {
            let reason = "memory_restore_mode: OnDemand: another program serves a device, and cannot be told of pages that \
                          are not there yet";
            return Err(refusal(ErrorKind::BadRequest, Step::Adopt.failure()).because(reason));
        }
        created.passed = taps;
        self.vm = Vm::Created(Box::new(created));
        Ok(())
    }

    fn start_rebuild(&mut self, mut restore: Box<Restore>, plan: &mut Plan) -> Result<Progress, ApiError> {
        let id = self.link.skip_id();
        let Some(opened) = restore.opened.take() else {
            return Err(refusal(ErrorKind::Internal, "no snapshot was opened"));
        };
        let (state, layers) = opened.into_parts();
        let step_failed = |failure: Failure| failed(Step::Rebuild, &failure);
        let userfault = restore.userfault.take();
        let (mover, placing) = if userfault.is_some() {
            let (machine, machines) = transfer::between().map_err(|error| step_failed(error.into()))?;
            (machines, Some(Placing { layers, machine, id }))
        } else {
            let (mover, machines) = layers.restore(self.mover_start(id)).map_err(step_failed)?;
            restore.mover = Some(mover);
            (machines, None)
        };
        plan.transfer = Some(Transfer::Restore(restore));
        self.build(Begin::Snapshot { state, mover, userfault }, Step::Rebuild, placing)
    }

    /// A restore that failed leaves no machine, as there was none before.
    pub(super) fn undo_restore(&mut self, plan: &Plan) {
        if plan.name != "restore" {
            return;
        }
        self.serial_in_boot = None;
        (self.console_in_boot, self.watchdog_in_boot) = (None, None);
        self.children.expect_end();
        self.send_unawaited(Command::Stop, &[]);
        self.children.end_all();
        self.fill = None;
        self.vm = Vm::Absent;
    }
}

fn admit_restore(body: &RestoreConfig, fds: Vec<OwnedFd>) -> Result<Transfer, ApiError> {
    let RestoreConfig { source_url, prefault, memory_restore_mode, resume: _, net_fds, zone_updates } = body;
    let source = transfer::directory("source_url", source_url)?;
    let on_demand = *memory_restore_mode == MemoryRestoreMode::OnDemand;
    if on_demand && *prefault {
        let reason = "prefault, memory_restore_mode: OnDemand: a guest that runs before its memory is there cannot have all \
                      of it before it runs; leave one of the two out";
        return Err(refusal(ErrorKind::BadRequest, Step::Open.failure()).because(reason));
    }
    if !zone_updates.is_empty() {
        let reason = "zone_updates: guest memory has no zones, and is bound to no node of the host";
        return Err(refusal(ErrorKind::BadRequest, Step::Open.failure()).because(reason));
    }
    let taps = net_fds::assign(net_fds, fds)
        .map_err(|error| refusal(ErrorKind::BadRequest, Step::Open.failure()).because(error.to_string()))?;
    Ok(Transfer::Restore(Box::new(Restore::new(source, *prefault, on_demand, taps))))
}

/// A device that the guest still has, and the configuration does not: a restored machine would lack it.
fn leaving<'a>(config: &VmConfig, guest: &'a Live) -> Option<&'a str> {
    let mut ids = guest.report.devices.iter().map(|device| device.id.as_str());
    // Those two have no configuration of their own.
    let nameless = [watchdog_end::ID, devices::MEM_ID];
    ids.find(|id| !nameless.contains(id) && !granule_api::config::names(config).any(|name| name == *id))
}

pub(super) fn failed(step: Step, failure: &Failure) -> ApiError {
    from_failure(step.failure(), failure)
}
