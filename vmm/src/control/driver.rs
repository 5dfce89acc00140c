//! The driver: one loop over one closed event type, the only mutator of what a client sees.
//!
//! ```text
//!  HTTP request ─┐
//!  machine ──────┤             ┌─ answered at once: ping, info, what the table refuses
//!  child died ───┼─► Event ──► │
//!  serial client ┘             └─ Plan (steps) ── Command ──► machine ── Reply ──► next step … answer
//! ```
//!
//! No call in it waits: a step that needs `machine` ends with the command sent, and goes on when the reply comes.
//! At most one plan is under way; requests that need one wait in order.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use granule_api::call::Call;
use granule_api::error::{ApiError, ErrorKind};
use granule_api::server::{Reply, Request};
use tokio::sync::mpsc;

use super::admission::{Verb, Verdict, admit};
use super::boot::{self, BootError};
use super::children::{Children, Death};
use super::create;
use super::events::EventMonitor;
use super::host::HostView;
use super::info;
use super::link::MachineLink;
use super::plan::{Audience, Plan, Progress, Step};
use super::refusal::{from_failure, refusal};
use super::vm::{Live, Vm};
use crate::wire::{ChannelError, Command, Envelope, Failure, FdSlot, FromMachine, GuestEnd, Notice, Outcome};

/// How often one device's process may be started anew before the machine is left without it.
const MAX_RESTARTS: u32 = 32;

/// Everything that can happen to the driver.
#[derive(Debug)]
pub enum Event {
    /// A client asks.
    Request(Request),
    /// `machine` speaks, or is gone.
    Machine(Result<FromMachine, ChannelError>),
    /// A device process ended.
    Death(Death),
    /// A client connected to the serial socket.
    SerialClient(OwnedFd),
}

/// How the program shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, with this code.
    Orderly(u8),
    /// `machine` is gone: nothing is left to control.
    MachineLost,
}

/// The driver's state.
#[derive(Debug)]
pub struct Driver {
    link: MachineLink,
    requests: mpsc::Receiver<Request>,
    inbox: mpsc::UnboundedReceiver<Event>,
    post: mpsc::UnboundedSender<Event>,
    events: EventMonitor,
    children: Children,
    defaults: create::Defaults,
    host: HostView,
    vm: Vm,
    plan: Option<Plan>,
    waiting: VecDeque<Request>,
    urgent: VecDeque<Plan>,
    serial_in_boot: Option<super::vm::SerialEnd>,
    boots: u64,
    end: Option<End>,
}

/// What the driver is made of.
#[derive(Debug)]
pub struct Parts {
    /// To and from `machine`.
    pub link: MachineLink,
    /// Requests arrive here.
    pub requests: mpsc::Receiver<Request>,
    /// Deaths and serial clients arrive here.
    pub inbox: mpsc::UnboundedReceiver<Event>,
    /// Another end of the inbox, for tasks that the driver starts.
    pub post: mpsc::UnboundedSender<Event>,
    /// The event monitor.
    pub events: EventMonitor,
    /// The device processes.
    pub children: Children,
    /// Process-wide settings.
    pub defaults: create::Defaults,
}

impl Driver {
    /// A driver without a machine; its first plan is to learn what the host can do.
    pub fn new(parts: Parts) -> Self {
        let Parts { link, requests, inbox, post, events, children, defaults } = parts;
        let mut driver = Self {
            link,
            requests,
            inbox,
            post,
            events,
            children,
            defaults,
            host: HostView::unknown(),
            vm: Vm::Absent,
            plan: None,
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            serial_in_boot: None,
            boots: 0,
            end: None,
        };
        driver.events.tell("vmm", "starting");
        driver.begin(Plan::new("probe", [Step::Probe], Audience::Log));
        driver
    }

    /// Creates and boots the machine that the command line describes.
    pub fn boot_from_command_line(&mut self, config: granule_api::config::VmConfig) {
        let mut plan = Plan::new("boot", [Step::Create, Step::Boot], Audience::CommandLine);
        plan.config = Some(Box::new(config));
        self.urgent.push_back(plan);
        self.next_plan();
    }

    /// Serves until the end.
    pub async fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.end {
                return end;
            }
            let event = tokio::select! {
                message = self.link.receive() => Event::Machine(message),
                Some(event) = self.inbox.recv() => event,
                Some(request) = self.requests.recv() => Event::Request(request),
            };
            self.on(event);
        }
    }

    /// Ends the device processes and tells `machine` to end.
    pub fn finish(mut self, code: u8) {
        self.children.end_all();
        if let Err(error) = self.link.send(Command::Exit { code }, &[]) {
            tracing::debug!(%error, "machine was gone first");
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.on_request(request),
            Event::Machine(Ok(FromMachine::Reply(Envelope { id, body }))) => self.on_reply(id, body),
            Event::Machine(Ok(FromMachine::Notice(notice))) => self.on_notice(notice),
            Event::Machine(Err(error)) => {
                tracing::error!(%error, "the machine process is lost");
                self.end = Some(End::MachineLost);
            }
            Event::Death(death) => self.on_death(death),
            Event::SerialClient(connection) => {
                let attach = Command::AttachSerial { connection: FdSlot(0) };
                self.send_unawaited(attach, &[connection.as_fd()]);
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        let verb = verb(&request.call);
        if let Verdict::Deny(kind, reason) = admit(self.vm.lifecycle(), verb)
            && self.plan.is_none()
        {
            return request.answer(Err(refusal(kind, reason)));
        }
        match verb {
            Verb::Ping => request.answer(info::ping(&self.host)),
            Verb::Info => {
                request.answer(info::info(&self.vm).unwrap_or_else(|| Err(ApiError::not_created())));
            }
            _ if self.plan.is_some() => self.waiting.push_back(request),
            _ => self.plan_for(verb, request),
        }
    }

    /// Turns an admitted request into a plan and starts it.
    fn plan_for(&mut self, verb: Verb, request: Request) {
        use Step::{Boot, Create, Exit, Forget, Pause, PowerButton, Resume, Stop, Tell};
        let live = matches!(self.vm, Vm::Live(..));
        let Request { call, reply, .. } = request;
        let mut config = None;
        let (name, steps): (_, Vec<Step>) = match verb {
            Verb::Create => {
                if let Call::VmCreate(body) = call {
                    config = Some(body);
                }
                ("create", vec![Create])
            }
            Verb::Boot => ("boot", vec![Boot]),
            Verb::Pause => ("pause", vec![Pause]),
            Verb::Resume => ("resume", vec![Resume]),
            Verb::PowerButton => ("power-button", vec![PowerButton]),
            Verb::Shutdown => ("shutdown", vec![Stop, Tell("shutdown")]),
            Verb::Reboot => ("reboot", vec![Tell("rebooting"), Stop, Boot, Tell("rebooted")]),
            Verb::Delete if live => ("delete", vec![Stop, Tell("shutdown"), Forget]),
            Verb::Delete => ("delete", vec![Forget]),
            Verb::ShutdownMonitor if live => ("shutdown", vec![Stop, Tell("shutdown"), Forget, Exit(0)]),
            Verb::ShutdownMonitor => ("shutdown", vec![Forget, Exit(0)]),
            Verb::Ping | Verb::Info | Verb::Unbuilt => return,
        };
        let success = if verb == Verb::ShutdownMonitor { Reply::Empty200 } else { Reply::Empty204 };
        let mut plan = Plan::new(name, steps, Audience::Client(reply, success));
        plan.config = config;
        self.begin(plan);
    }

    fn begin(&mut self, plan: Plan) {
        self.plan = Some(plan);
        self.advance();
    }

    /// Runs steps until one waits for `machine`, or the plan ends.
    fn advance(&mut self) {
        while let Some(mut plan) = self.plan.take() {
            let Some(step) = plan.steps.pop_front() else {
                plan.audience.succeed();
                self.next_plan();
                continue;
            };
            match self.start(step, &mut plan) {
                Ok(Progress::Done) => self.plan = Some(plan),
                Ok(Progress::Awaits(id)) => {
                    plan.awaiting = Some((step, id));
                    self.plan = Some(plan);
                    return;
                }
                Err(error) => self.fail(plan, error),
            }
            if self.end.is_some() {
                if let Some(plan) = self.plan.take() {
                    plan.audience.succeed();
                }
                return;
            }
        }
    }

    fn next_plan(&mut self) {
        while self.plan.is_none() {
            if let Some(plan) = self.urgent.pop_front() {
                let gone = !matches!(self.vm, Vm::Live(..)) || plan.guest != Some(self.boots);
                if plan.guest.is_some() && gone {
                    continue;
                }
                self.plan = Some(plan);
                return self.advance();
            }
            let Some(request) = self.waiting.pop_front() else { return };
            self.on_request(request);
        }
    }

    fn fail(&mut self, plan: Plan, error: ApiError) {
        tracing::warn!(plan = plan.name, causes = ?error.causes(), "failed");
        if plan.audience.fail(error) {
            self.end = Some(End::Orderly(1));
            return;
        }
        self.next_plan();
    }

    /// Starts one step.
    fn start(&mut self, step: Step, plan: &mut Plan) -> Result<Progress, ApiError> {
        match step {
            Step::Probe => return self.command(Command::Hello, &[]),
            Step::Create => {
                let config = plan
                    .config
                    .take()
                    .ok_or_else(|| refusal(ErrorKind::BadRequest, "the body is missing"))?;
                self.vm = Vm::Created(Box::new(create::create(*config, &self.defaults, &self.host)?));
            }
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
                return self.command(Command::Stop, &[]);
            }
            Step::Stop => {}
            Step::Replace => return self.start_replacement(plan),
            Step::Forget => {
                if !matches!(std::mem::replace(&mut self.vm, Vm::Absent), Vm::Absent) {
                    self.events.tell("vm", "deleted");
                }
            }
            Step::Tell(event) => self.events.tell("vm", event),
            Step::Exit(code) => {
                self.events.tell("vmm", "shutdown");
                self.end = Some(End::Orderly(code));
            }
        }
        Ok(Progress::Done)
    }

    fn command(
        &mut self,
        command: Command,
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<Progress, ApiError> {
        self.link
            .send(command, fds)
            .map(Progress::Awaits)
            .map_err(|error| from_failure("The machine process cannot be reached", &error.into()))
    }

    fn send_unawaited(&mut self, command: Command, fds: &[std::os::fd::BorrowedFd<'_>]) {
        if let Err(error) = self.link.send(command, fds) {
            tracing::warn!(%error, "a command could not be sent");
        }
    }

    fn start_boot(&mut self) -> Result<Progress, ApiError> {
        let Vm::Created(created) = &mut self.vm else {
            return Err(refusal(ErrorKind::WrongState, "VM is not in a state to boot"));
        };
        self.events.tell("vm", "booting");
        let prepared = boot::prepare(created, &mut self.children, &self.post);
        let boot::Prepared { spec, fds, serial } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.children.end_all();
                return Err(BootError::into_api(error));
            }
        };
        self.serial_in_boot = Some(serial);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.command(Command::Boot(Box::new(spec)), &borrowed)
    }

    fn start_replacement(&mut self, plan: &Plan) -> Result<Progress, ApiError> {
        let Some(id) = plan.device.clone().filter(|_| matches!(self.vm, Vm::Live(..))) else {
            return Ok(Progress::Done);
        };
        match self.children.restart(&id) {
            None => Ok(Progress::Done),
            Some(Ok(socket)) => {
                self.command(Command::ReplaceBackend { id, socket: FdSlot(0) }, &[socket.as_fd()])
            }
            Some(Err(error)) => {
                Err(from_failure("The device process could not be started anew", &error.into()))
            }
        }
    }

    fn on_reply(&mut self, id: u32, body: Result<Outcome, Failure>) {
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
        match self.settle(step, body, &plan) {
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
    fn settle(&mut self, step: Step, body: Result<Outcome, Failure>, plan: &Plan) -> Result<(), ApiError> {
        match (step, body) {
            (Step::Probe, Ok(Outcome::Host(report))) => self.host = HostView::known(*report),
            (Step::Probe, Err(failure)) => self.host = HostView::failed(&failure),
            (Step::Boot, Ok(Outcome::Booted(report))) => {
                let serial = self.serial_in_boot.take().unwrap_or(super::vm::SerialEnd::None);
                if let Vm::Created(created) = std::mem::replace(&mut self.vm, Vm::Absent) {
                    let jail = info::jail(&self.children);
                    self.vm = Vm::Live(
                        created,
                        Box::new(Live { report: *report, paused: false, _serial: serial, jail }),
                    );
                }
                self.boots += 1;
                self.events.tell("vm", "booted");
            }
            (Step::Boot, Err(failure)) => {
                self.serial_in_boot = None;
                self.children.end_all();
                return Err(from_failure("The VM could not boot", &failure));
            }
            (Step::Pause | Step::Resume, Ok(_)) => {
                if let Some(live) = self.vm.live_mut() {
                    live.paused = step == Step::Pause;
                }
                self.events.tell("vm", if step == Step::Pause { "paused" } else { "resumed" });
            }
            (Step::Stop, Ok(_)) => {
                self.children.end_all();
                self.vm.demolish();
            }
            (Step::Replace, Ok(_)) => {
                if let Some(id) = &plan.device {
                    self.events.tell_device("restarted", id);
                }
            }
            (Step::Replace, Err(failure)) => {
                if let Some(id) = &plan.device {
                    self.events.tell_device("needs-reset", id);
                }
                return Err(from_failure("The device could not be taken up again", &failure));
            }
            (_, Ok(_)) => {}
            (_, Err(failure)) => return Err(from_failure(step.failure(), &failure)),
        }
        Ok(())
    }

    fn on_notice(&mut self, notice: Notice) {
        use Step::{Boot, Exit, Forget, Stop, Tell};
        match notice {
            Notice::GuestEnded(GuestEnd::Reset) => {
                self.queue_for_guest(Plan::new(
                    "reboot",
                    [Tell("rebooting"), Stop, Boot, Tell("rebooted")],
                    Audience::CommandLine,
                ));
            }
            Notice::GuestEnded(GuestEnd::PowerOff) => {
                self.queue_for_guest(Plan::new(
                    "shutdown",
                    [Stop, Tell("shutdown"), Forget, Exit(0)],
                    Audience::CommandLine,
                ));
            }
            Notice::VcpuFailed { vcpu, reason } => {
                tracing::error!(vcpu, reason, "a vCPU cannot go on");
                self.events.tell_vcpu_failed(vcpu, &reason);
                self.queue_for_guest(Plan::new(
                    "failure",
                    [Stop, Tell("shutdown"), Forget, Exit(1)],
                    Audience::CommandLine,
                ));
            }
            Notice::DeviceActivated { id } => self.events.tell_device("activated", &id),
            Notice::DeviceReset { id } => self.events.tell_device("reset", &id),
            Notice::DeviceFailed { id, causes } => {
                tracing::warn!(id, ?causes, "a device process fails and is ended");
                // Its death is told by its pidfd and brings the successor.
                self.children.kill(&id);
            }
            Notice::Terminate { signal } => {
                tracing::info!(signal, "asked to end");
                self.queue(Plan::new(
                    "shutdown",
                    [Stop, Tell("shutdown"), Forget, Exit(0)],
                    Audience::CommandLine,
                ));
            }
        }
    }

    /// Runs a plan that this guest, not a client, asks for: after the one under way, before those that wait, and not at
    /// all if the guest has gone until then.
    fn queue_for_guest(&mut self, mut plan: Plan) {
        plan.guest = Some(self.boots);
        self.queue(plan);
    }

    fn queue(&mut self, plan: Plan) {
        self.urgent.push_back(plan);
        if self.plan.is_none() {
            self.next_plan();
        }
    }

    fn on_death(&mut self, death: Death) {
        if self.children.generation(&death.id) != Some(death.generation) {
            return;
        }
        tracing::warn!(id = death.id, how = death.how, "a device process died");
        self.events.tell_device("died", &death.id);
        if death.generation > MAX_RESTARTS {
            self.events.tell_device("given-up", &death.id);
            return;
        }
        let mut plan = Plan::new("device restart", [Step::Replace], Audience::Log);
        plan.device = Some(death.id);
        self.queue_for_guest(plan);
    }
}

/// Which row of the admission table a call belongs to.
fn verb(call: &Call) -> Verb {
    match call {
        Call::VmmPing => Verb::Ping,
        Call::VmmShutdown => Verb::ShutdownMonitor,
        Call::VmInfo => Verb::Info,
        Call::VmCreate(_) => Verb::Create,
        Call::VmBoot => Verb::Boot,
        Call::VmPause => Verb::Pause,
        Call::VmResume => Verb::Resume,
        Call::VmShutdown => Verb::Shutdown,
        Call::VmReboot => Verb::Reboot,
        Call::VmPowerButton => Verb::PowerButton,
        Call::VmDelete => Verb::Delete,
        _ => Verb::Unbuilt,
    }
}
