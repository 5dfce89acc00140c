//! The steps of a plan: how each is started, and what its outcome changes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use granule_api::error::{ApiError, ErrorKind};

use super::super::boot::{self, Begin};
use super::super::create;
use super::super::devices;
use super::super::host::HostView;
use super::super::image_cache;
use super::super::info;
use super::super::orders::OrderError;
use super::super::outside::{self, Connections, Target};
use super::super::plan::{Plan, Progress, Step};
use super::super::refusal::{from_failure, refusal};
use super::super::transfer::on_demand::{Fill, Placing};
use super::super::vm::{Live, SerialEnd, Vm};
use super::{Driver, End, Event};
use crate::wire::{Blame, Command, Failure, FdSlot, Outcome};

impl Driver {
    /// Starts one step.
    pub(super) fn start(&mut self, step: Step, plan: &mut Plan) -> Result<Progress, ApiError> {
        match step {
            Step::Probe => return self.command(Command::Hello, &[]),
            Step::Create => {
                let config = plan
                    .config
                    .take()
                    .ok_or_else(|| refusal(ErrorKind::BadRequest, "the body is missing"))?;
                let mut created = create::create(*config, &self.defaults, &self.host)?;
                created.passed = std::mem::take(&mut plan.passed);
                self.vm = Vm::Created(Box::new(created));
            }
            Step::Connect => return Ok(self.start_connecting()),
            Step::Boot => return self.start_boot(),
            Step::Pause => {
                self.events.tell("vm", "pausing");
                return self.command(Command::Pause, &[]);
            }
            Step::Resume => {
                self.events.tell("vm", "resuming");
                return self.command(Command::Resume, &[]);
            }
            Step::PowerButton => return self.command(Command::PowerButton, &[]),
            Step::Stop if matches!(self.vm, Vm::Live(..)) => {
                self.children.expect_end();
                self.expect_no_more_memory();
                return self.command(Command::Stop, &[]);
            }
            Step::Stop => {}
            Step::Admit => return self.admit_device(plan),
            Step::ConnectNew => {
                let targets = plan.addition.as_ref().map(|new| devices::targets(&new.alone_checked));
                return Ok(self.connect(targets.unwrap_or_default()));
            }
            Step::Add => return self.start_adding(plan),
            Step::Remove => return self.start_removing(plan),
            Step::Stage
            | Step::Track
            | Step::Pace
            | Step::Harvest
            | Step::Copy
            | Step::Save
            | Step::Release
            | Step::Complete
            | Step::Move
            | Step::Commit
            | Step::Open
            | Step::Adopt
            | Step::Rebuild
            | Step::Finish => return self.start_transfer(step, plan),
            Step::Replace => return self.start_replacement(plan),
            Step::Order => {
                let (id, order) = plan.orders.pop_front().unwrap_or_default();
                plan.device = Some(id.clone());
                return self.order(&id, order, None);
            }
            Step::ConfigChanged => {
                let id = plan.device.clone().unwrap_or_default();
                return self.command(Command::ConfigChanged { id }, &[]);
            }
            Step::Orphan => {
                if let Some(id) = plan.device.clone() {
                    return self.command(Command::BackendGone { id }, &[]);
                }
            }
            Step::Forget => {
                self.fill = None;
                if !matches!(std::mem::replace(&mut self.vm, Vm::Absent), Vm::Absent) {
                    self.events.tell("vm", "deleted");
                }
            }
            Step::Tell(event) => self.events.tell("vm", event),
            Step::TellSaved => self.tell_saved(plan),
            Step::Exit(code) => {
                self.events.tell("vmm", "shutdown");
                self.end = Some(End::Orderly(code));
            }
        }
        Ok(Progress::Done)
    }

    pub(super) fn command(&mut self, command: Command, fds: &[BorrowedFd<'_>]) -> Result<Progress, ApiError> {
        self.link
            .send(command, fds)
            .map(Progress::Awaits)
            .map_err(|error| from_failure("The machine process cannot be reached", &error.into()))
    }

    /// Gives a device process an order; the plan goes on when it has answered, or has not in time.
    pub(super) fn order(
        &mut self,
        id: &str,
        order: Vec<u8>,
        fd: Option<OwnedFd>,
    ) -> Result<Progress, ApiError> {
        let Some(orders) = self.children.orders(id) else {
            return Err(refusal(ErrorKind::NotFound, "the device has no process"));
        };
        let awaited = self.link.skip_id();
        let post = self.post.clone();
        tokio::spawn(async move {
            let answer = orders.give(&order, fd.as_ref().map(AsFd::as_fd)).await;
            let body = answer.map(Outcome::Told).map_err(|error| match error {
                OrderError::Refused(_) => Failure::from(error).blamed(Blame::Request),
                OrderError::Silent | OrderError::Io(_) => error.into(),
            });
            // The driver is gone only when everything ends.
            let _ = post.send(Event::Ordered(awaited, body));
        });
        Ok(Progress::Awaits(awaited))
    }

    pub(super) fn send_unawaited(&mut self, command: Command, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.link.send(command, fds) {
            tracing::warn!(%error, "a command could not be sent");
        }
    }

    pub(super) fn start_boot(&mut self) -> Result<Progress, ApiError> {
        if !matches!(self.vm, Vm::Created(_)) {
            return Err(refusal(ErrorKind::WrongState, "VM is not in a state to boot"));
        }
        self.events.tell("vm", "booting");
        self.window = None;
        self.build(Begin::Kernel, Step::Boot, None).inspect_err(|_| self.children.end_all())
    }

    /// Starts all that a machine consists of, the mover that places its memory on demand among it; `machine` builds the
    /// guest.
    pub(super) fn build(
        &mut self,
        begin: Begin,
        step: Step,
        placing: Option<Placing>,
    ) -> Result<Progress, ApiError> {
        let Vm::Created(created) = &mut self.vm else {
            return Err(refusal(ErrorKind::WrongState, "VM is not in a state to boot"));
        };
        self.fill = None;
        let prepared = boot::prepare(
            created,
            &mut self.children,
            &mut self.connections,
            self.boots + 1,
            &self.post,
            begin,
        );
        let boot::Prepared { spec, fds, serial, console, watchdog, announcing } =
            prepared.map_err(|error| error.into_api(step.failure()))?;
        if let Some(Placing { layers, machine, id }) = placing {
            let mover = layers.place(self.mover_start(id), &machine, &announcing);
            let mover = mover.map_err(|failure| from_failure(step.failure(), &failure))?;
            self.fill = Some(Fill::begun(mover));
        }
        self.serial_in_boot = Some(serial);
        (self.console_in_boot, self.watchdog_in_boot) = (console, watchdog);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.command(Command::Boot(Box::new(spec)), &borrowed)
    }

    /// Connects to the programs that serve devices; they may be slow, or not there.
    fn start_connecting(&mut self) -> Progress {
        if matches!(self.vm, Vm::Live(..)) {
            return Progress::Done;
        }
        let targets = self.vm.created().map(|created| devices::targets(&created.checked));
        self.connect(targets.unwrap_or_default())
    }

    fn connect(&mut self, targets: Vec<Target>) -> Progress {
        self.connections = Connections::default();
        if targets.is_empty() {
            return Progress::Done;
        }
        let awaited = self.link.skip_id();
        let post = self.post.clone();
        tokio::spawn(async move {
            let connected = outside::connect_all(targets).await;
            let connected = connected.map_err(|error| Failure::from(error).blamed(Blame::Request));
            // The driver is gone only when everything ends.
            let _ = post.send(Event::Connected(awaited, connected));
        });
        Progress::Awaits(awaited)
    }

    pub(super) fn on_connected(&mut self, id: u32, connected: Result<Connections, Failure>) {
        let outcome = connected.map(|connections| self.connections = connections);
        self.on_reply(id, outcome.map(|()| Outcome::Done));
    }

    pub(super) fn start_replacement(&mut self, plan: &mut Plan) -> Result<Progress, ApiError> {
        let Some(id) = plan.device.clone().filter(|_| matches!(self.vm, Vm::Live(..))) else {
            return Ok(Progress::Done);
        };
        let successor = match plan.socket.take() {
            Some(socket) => {
                let taken = self.children.outsiders().take_back(&id, socket);
                taken.map(|taken| taken.map_err(Failure::from))
            }
            None => self.children.restart(&id).map(|restarted| restarted.map_err(Failure::from)),
        };
        match successor {
            None => Ok(Progress::Done),
            Some(Ok(socket)) => {
                self.command(Command::ReplaceBackend { id, socket: FdSlot(0) }, &[socket.as_fd()])
            }
            Some(Err(error)) => Err(from_failure("The device process could not be started anew", &error)),
        }
    }

    pub(super) fn on_reply(&mut self, id: u32, body: Result<Outcome, Failure>) {
        if let Some((_, answer)) = self.exits_asked.take_if(|(asked, _)| *asked == id) {
            // The page may have been written without it by now.
            let _ = answer.send(body);
            return;
        }
        let Some(mut plan) = self.plan.take() else { return };
        let step = match plan.awaiting {
            Some((step, awaited)) if awaited == id => step,
            // An answer to what nobody waits for (AttachSerial).
            _ => {
                self.plan = Some(plan);
                return;
            }
        };
        plan.awaiting = None;
        match self.settle(step, body, &mut plan) {
            Ok(()) => {
                self.plan = Some(plan);
                self.advance();
            }
            Err(error) => {
                self.fail(plan, error);
                self.advance();
            }
        }
    }

    /// Takes in what a step achieved.
    pub(super) fn settle(
        &mut self,
        step: Step,
        body: Result<Outcome, Failure>,
        plan: &mut Plan,
    ) -> Result<(), ApiError> {
        match (step, body) {
            (Step::Probe, Ok(Outcome::Host(report))) => self.host = HostView::known(*report),
            (Step::Probe, Err(failure)) => self.host = HostView::failed(&failure),
            (Step::Finish, Ok(_)) if self.lost().is_some() => {
                let failure = Failure::of(self.lost().unwrap_or_default());
                return Err(from_failure(step.failure(), &failure));
            }
            (Step::Boot | Step::Finish, Ok(Outcome::Booted(report))) => {
                tracing::debug!(phases_us = ?report.phases_us, "built");
                let serial = self.serial_in_boot.take().unwrap_or(SerialEnd::None);
                if let Vm::Created(created) = std::mem::replace(&mut self.vm, Vm::Absent) {
                    let jail = info::jail(&self.children);
                    self.vm = Vm::Live(
                        created,
                        Box::new(Live {
                            report: *report,
                            paused: step == Step::Finish,
                            tracked: false,
                            _serial: serial,
                            _console: self.console_in_boot.take(),
                            _watchdog: self.watchdog_in_boot.take(),
                            jail,
                        }),
                    );
                }
                self.boots += 1;
                (self.plugged, self.given) = Default::default();
                if step == Step::Boot {
                    self.events.tell("vm", "booted");
                }
            }
            (Step::Boot, Err(mut failure)) => {
                // The machine knows only that a process is gone.
                failure.causes.extend(self.children.last_words());
                self.serial_in_boot = None;
                (self.console_in_boot, self.watchdog_in_boot) = (None, None);
                self.children.end_all();
                return Err(from_failure("The VM could not boot", &failure));
            }
            (Step::Pause | Step::Resume, Ok(_)) => {
                if let Some(live) = self.vm.live_mut() {
                    live.paused = step == Step::Pause;
                }
                self.tell_watchdog();
                self.events.tell("vm", if step == Step::Pause { "paused" } else { "resumed" });
            }
            (Step::Save, Ok(_)) => self.on_saved(plan)?,
            (Step::Release, Ok(Outcome::Released { paused_us })) => self.on_released(paused_us, plan),
            (Step::Stop, Ok(_)) => {
                self.children.end_all();
                image_cache::sweep();
                self.vm.demolish();
                self.forget_memory();
            }
            (Step::Add, Ok(Outcome::Added(report))) => self.on_added(*report, plan)?,
            (Step::Add, Err(mut failure)) => {
                failure.causes.extend(self.children.last_words());
                self.abandon(plan);
                return Err(from_failure(step.failure(), &failure));
            }
            (Step::Remove, Ok(_)) => self.on_removing(plan)?,
            (Step::Replace, Ok(_)) => {
                if let Some(id) = &plan.device {
                    self.events.tell_device("restarted", id);
                }
                self.tell_watchdog();
                let console = self.vm.created().and_then(|created| created.config.console.id.as_ref());
                if let Some(window) = self.window.filter(|_| plan.device.as_ref() == console) {
                    // Not from here: another plan may begin only when this one has ended.
                    let _ = self.post.send(Event::ConsoleResized(window));
                }
            }
            (Step::Orphan, Ok(_)) => {
                if let Some(id) = &plan.device {
                    self.events.tell_device("needs-reset", id);
                }
            }
            (Step::Replace, Err(failure)) => {
                if let Some(id) = &plan.device {
                    self.children.outsiders().hang_up(id);
                    self.events.tell_device("needs-reset", id);
                }
                return Err(from_failure("The device could not be taken up again", &failure));
            }
            (_, Ok(_)) => {}
            (Step::Rebuild | Step::Finish, Err(mut failure)) => {
                // The machine knows only that the mover is gone.
                failure.causes.extend(self.lost().map(str::to_owned));
                return Err(from_failure(step.failure(), &failure));
            }
            (_, Err(failure)) => return Err(from_failure(step.failure(), &failure)),
        }
        Ok(())
    }
}
