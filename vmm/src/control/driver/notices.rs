//! What happens unasked: the guest ends itself, a device process dies, a signal comes.

use granule_devices::console::Window;
use granule_devices::watchdog::{PAUSE, RESUME};

use super::super::admission::Lifecycle;
use super::super::children::Death;
use super::super::outside::Sought;
use super::super::plan::{Audience, Plan, Step};
use super::super::watchdog_end;
use super::Driver;
use crate::wire::{GuestEnd, Notice};

/// How often one device's process may be started anew before the machine is left without it.
const MAX_RESTARTS: u32 = 32;

impl Driver {
    pub(super) fn on_notice(&mut self, notice: Notice) {
        use Step::{Boot, Connect, Exit, Forget, Stop, Tell};
        match notice {
            Notice::GuestEnded(GuestEnd::Reset) => {
                self.queue_for_guest(Plan::new(
                    "reboot",
                    [Tell("rebooting"), Stop, Connect, Boot, Tell("rebooted")],
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
            Notice::DeviceNeedsReset { id } => self.events.tell_device("needs-reset", &id),
            Notice::DeviceRemoved { id } => self.on_removed(&id),
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
    pub(super) fn queue_for_guest(&mut self, mut plan: Plan) {
        plan.guest = Some(self.boots);
        self.queue(plan);
    }

    pub(super) fn on_death(&mut self, death: Death) {
        let outside = self.children.outsiders().generation(&death.id) == Some(death.generation);
        if !outside && self.children.generation(&death.id) != Some(death.generation) {
            return;
        }
        tracing::warn!(id = death.id, how = death.how, "a device process died");
        self.events.tell_device("died", &death.id);
        if outside {
            self.children.outsiders().seek(&death.id);
            return;
        }
        if death.generation > MAX_RESTARTS {
            self.events.tell_device("given-up", &death.id);
            return;
        }
        let mut plan = Plan::new("device restart", [Step::Replace], Audience::Log);
        plan.device = Some(death.id);
        self.queue_for_guest(plan);
    }

    /// A program that serves a device had hung up, and is back or stays away.
    pub(super) fn on_sought(&mut self, sought: Sought) {
        let (id, generation, step, socket) = match sought {
            Sought::Back { id, generation, socket } => (id, generation, Step::Replace, Some(socket)),
            Sought::Away { id, generation } => (id, generation, Step::Orphan, None),
        };
        if self.children.outsiders().generation(&id) != Some(generation) {
            return;
        }
        let mut plan = Plan::new("device restart", [step], Audience::Log);
        (plan.device, plan.socket) = (Some(id), socket);
        self.queue_for_guest(plan);
    }

    /// The terminal that shows the console has another size: the process is told, and the guest by the process.
    pub(super) fn on_console_resized(&mut self, window: Window) {
        self.window = Some(window);
        let Some(id) = self.vm.created().and_then(|created| created.config.console.id.clone()) else {
            return;
        };
        let steps = [Step::Order, Step::ConfigChanged];
        let mut plan = Plan::new("console resize", steps, Audience::Log);
        plan.orders.push_back((id, window.order().to_vec()));
        self.queue_for_guest(plan);
    }

    /// The guest has fallen silent.
    pub(super) fn on_watchdog_bite(&mut self, guest: u64) {
        use Step::{Boot, Connect, Stop, Tell};
        if guest != self.boots || self.vm.lifecycle() != Lifecycle::Running {
            return;
        }
        tracing::error!("the guest has not been heard of for too long and is reset");
        self.events.tell_device("watchdog", watchdog_end::ID);
        self.queue_for_guest(Plan::new(
            "reboot",
            [Tell("rebooting"), Stop, Connect, Boot, Tell("rebooted")],
            Audience::CommandLine,
        ));
    }

    /// Lets the watchdog's time pass, or not, as the machine runs or stands still.
    pub(super) fn tell_watchdog(&self) {
        let Some(orders) = self.children.orders(watchdog_end::ID) else { return };
        let order = if self.vm.lifecycle() == Lifecycle::Paused { PAUSE } else { RESUME };
        tokio::spawn(async move {
            if let Err(error) = orders.give(order, None).await {
                tracing::warn!(%error, "the watchdog was not told whether the machine runs");
            }
        });
    }
}
