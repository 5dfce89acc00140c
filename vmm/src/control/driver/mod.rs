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
//! At most one plan is under way; requests that need one wait in order. `requests` makes plans, `steps` and `hotplug` run them,
//! `notices` is for what happens unasked.

mod hotplug;
mod live;
mod notices;
mod on_demand;
mod requests;
mod steps;
#[cfg(test)]
mod tests;
mod transfers;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use granule_api::config::RestoreConfig;
use granule_api::error::ApiError;
use granule_api::server::Request;
use granule_devices::console::Window;
use tokio::sync::{mpsc, oneshot};

use super::children::{Children, Death};
use super::console_end::ConsoleEnd;
use super::create;
use super::events::EventMonitor;
use super::host::HostView;
use super::link::MachineLink;
use super::metrics::Saves;
use super::outside::{Connections, Sought};
use super::plan::{Audience, Plan, Progress, Step};
use super::told_size::ToldSize;
use super::transfer::on_demand::Fill;
use super::transfer::{Moved, Transfer};
use super::vm::{PassedFds, SerialEnd, Vm};
use super::watchdog_end::WatchdogEnd;
use crate::wire::{ChannelError, Command, Envelope, Failure, FdSlot, FromMachine, Outcome};

/// Everything that can happen to the driver.
#[derive(Debug)]
pub enum Event {
    /// A client asks.
    Request(Request),
    /// `machine` speaks, or is gone.
    Machine(Result<FromMachine, ChannelError>),
    /// A device process has answered an order; the number is what the plan waits for.
    Ordered(u32, Result<Outcome, Failure>),
    /// The programs that serve devices are connected, or one of them could not be.
    Connected(u32, Result<Connections, Failure>),
    /// A program that serves a device had hung up.
    Sought(Sought),
    /// Work on the disk for a snapshot is done, or has failed.
    Worked(u32, Result<Transfer, Failure>),
    /// The mover speaks.
    Moved(Moved),
    /// A device process ended.
    Death(Death),
    /// The terminal that shows the console has another size.
    ConsoleResized(Window),
    /// The watchdog has not heard of that guest for too long.
    WatchdogBite {
        /// The guest, counted from the first boot.
        guest: u64,
    },
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
    serial_in_boot: Option<SerialEnd>,
    console_in_boot: Option<ConsoleEnd>,
    watchdog_in_boot: Option<WatchdogEnd>,
    /// The console's size as last told, for the successor of its process.
    window: Option<Window>,
    connections: Connections,
    /// The memory of a guest that was restored on demand, until another guest begins.
    fill: Option<Fill>,
    /// The number of the question about exits that the machine has not answered yet, and who asks.
    exits_asked: Option<(u32, oneshot::Sender<Result<Outcome, Failure>>)>,
    /// Pages that the mover has looked at, of how many, for the transfer that is under way.
    moved_pages: (u64, u64),
    saves: Saves,
    /// What the guest has plugged, and given back.
    plugged: Arc<ToldSize>,
    given: Arc<ToldSize>,
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
            console_in_boot: None,
            watchdog_in_boot: None,
            window: None,
            connections: Connections::default(),
            fill: None,
            exits_asked: None,
            moved_pages: (0, 0),
            saves: Saves::default(),
            plugged: Arc::default(),
            given: Arc::default(),
            boots: 0,
            end: None,
        };
        driver.events.tell("vmm", "starting");
        driver.begin(Plan::new("probe", [Step::Probe], Audience::Log));
        driver
    }

    /// Creates and boots the machine that the command line describes.
    pub fn boot_from_command_line(&mut self, config: granule_api::config::VmConfig, passed: PassedFds) {
        let mut plan = Plan::new("boot", [Step::Create, Step::Connect, Step::Boot], Audience::CommandLine);
        plan.config = Some(Box::new(config));
        plan.passed = passed;
        self.urgent.push_back(plan);
        self.next_plan();
    }

    /// Restores the snapshot that the command line names, with the taps that it names.
    pub fn restore_from_command_line(&mut self, config: &RestoreConfig, taps: Vec<OwnedFd>) {
        self.plan_restore(config, taps, Audience::CommandLine);
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
            Event::Ordered(id, body) => self.on_reply(id, body),
            Event::Connected(id, connected) => self.on_connected(id, connected),
            Event::Sought(sought) => self.on_sought(sought),
            Event::Worked(id, worked) => self.on_worked(id, worked),
            Event::Moved(moved) => self.on_moved(moved),
            Event::ConsoleResized(window) => self.on_console_resized(window),
            Event::WatchdogBite { guest } => self.on_watchdog_bite(guest),
            Event::Death(death) => self.on_death(death),
            Event::SerialClient(connection) => {
                let attach = Command::AttachSerial { connection: FdSlot(0) };
                self.send_unawaited(attach, &[connection.as_fd()]);
            }
        }
    }

    fn begin(&mut self, plan: Plan) {
        self.plan = Some(plan);
        self.advance();
    }

    /// Runs steps until one waits for `machine`, or the plan ends.
    fn advance(&mut self) {
        while let Some(mut plan) = self.plan.take() {
            if plan.awaiting.is_some() {
                // Begun by the end of the one before, within this very loop.
                self.plan = Some(plan);
                return;
            }
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
        self.undo_restore(&plan);
        self.undo_tracking();
        self.deny(plan.audience, error);
        if self.end.is_none() {
            self.next_plan();
        }
    }

    /// Tells whoever asked why it was not done; the end of the program, where that was the command line.
    fn deny(&mut self, audience: Audience, error: ApiError) {
        if audience.fail(error) {
            self.end = Some(End::Orderly(1));
        }
    }

    fn queue(&mut self, plan: Plan) {
        self.urgent.push_back(plan);
        if self.plan.is_none() {
            self.next_plan();
        }
    }
}
