//! What clients ask: answered at once, refused by the table, or turned into a plan.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use granule_api::call::Call;
use granule_api::config::{VmRemoveDevice, VmResize, VmResizeDisk};
use granule_api::error::ApiError;
use granule_api::server::{Reply, Request};

use tokio::sync::oneshot;

use super::super::addition::NewDevice;
use super::super::admission::{Verb, Verdict, admit};
use super::super::counters;
use super::super::create;
use super::super::devices::MEM_ID;
use super::super::info;
use super::super::metrics::Known;
use super::super::plan::{Audience, Plan, Step};
use super::super::refusal::refusal;
use super::super::resize::{self, SizeOrder};
use super::super::vm::Vm;
use super::Driver;
use super::hotplug::ADD;
use super::on_demand;
use crate::wire::{Command, Failure, Outcome};

impl Driver {
    pub(super) fn on_request(&mut self, request: Request) {
        let verb = Verb::of(&request.call);
        // What waits for a plan to end is judged when its turn comes.
        if let Verdict::Deny(kind, reason) = admit(self.vm.lifecycle(), verb)
            && (self.plan.is_none() || answered_at_once(verb))
        {
            return request.answer(Err(refusal(kind, reason)));
        }
        match verb {
            Verb::Ping => request.answer(info::ping(&self.host)),
            Verb::Info => self.tell_info(request),
            Verb::Metrics => self.tell_metrics(request),
            Verb::Counters => self.tell_counters(request),
            _ if self.plan.is_some() => self.waiting.push_back(request),
            Verb::Snapshot | Verb::LiveSnapshot | Verb::AddDevice if self.is_filling() => {
                request.answer(Err(on_demand::too_early()));
            }
            Verb::AddDevice | Verb::RemoveDevice | Verb::Resize if matches!(self.vm, Vm::Created(_)) => {
                let Request { call, fds, reply } = request;
                let _ = reply.send(self.change_cold(call, fds));
            }
            _ => self.plan_for(verb, request),
        }
    }

    /// Changes the configuration of a VM that is not booted, which takes no plan.
    fn change_cold(&mut self, call: Call, fds: Vec<OwnedFd>) -> Result<Reply, ApiError> {
        match call {
            Call::VmRemoveDevice(VmRemoveDevice { id }) => self.remove_cold(&id)?,
            Call::VmResize(wanted) => self.resize_cold(wanted)?,
            other => {
                let device = NewDevice::of(other, fds).ok_or_else(ApiError::not_created)?;
                self.add_cold(device)?;
            }
        }
        Ok(Reply::Empty204)
    }

    /// Turns an admitted request into a plan and starts it.
    pub(super) fn plan_for(&mut self, verb: Verb, request: Request) {
        use Step::{Boot, Connect, Create, Exit, Forget, Pause, PowerButton, Remove, Resume, Stop, Tell};
        let live = matches!(self.vm, Vm::Live(..));
        let Request { call, fds, reply } = request;
        if let Call::VmResizeDisk(body) = call {
            return self.resize_disk(&body, reply);
        }
        let call = match call {
            Call::VmSnapshot(body) => return self.plan_snapshot(&body, reply),
            Call::VmRestore(body) => {
                return self.plan_restore(&body, fds, Audience::Client(reply, Reply::Empty204));
            }
            call => call,
        };
        if let Call::VmResize(body) = call {
            return self.resize(body, reply);
        }
        let mut config = None;
        let (mut device, mut new_device) = (None, None);
        let (name, steps): (_, Vec<Step>) = match verb {
            Verb::Create => {
                if let Call::VmCreate(body) = call {
                    config = Some(body);
                }
                ("create", vec![Create])
            }
            Verb::Boot => ("boot", vec![Connect, Boot]),
            Verb::Pause => ("pause", vec![Pause]),
            Verb::Resume => ("resume", vec![Resume]),
            Verb::PowerButton => ("power-button", vec![PowerButton]),
            Verb::Shutdown => ("shutdown", vec![Stop, Tell("shutdown")]),
            Verb::Reboot => ("reboot", vec![Tell("rebooting"), Stop, Connect, Boot, Tell("rebooted")]),
            Verb::Delete if live => ("delete", vec![Stop, Tell("shutdown"), Forget]),
            Verb::Delete => ("delete", vec![Forget]),
            Verb::ShutdownMonitor if live => ("shutdown", vec![Stop, Tell("shutdown"), Forget, Exit(0)]),
            Verb::ShutdownMonitor => ("shutdown", vec![Forget, Exit(0)]),
            Verb::AddDevice => {
                new_device = NewDevice::of(call, fds);
                ("add-device", ADD.to_vec())
            }
            Verb::RemoveDevice => {
                if let Call::VmRemoveDevice(VmRemoveDevice { id }) = call {
                    device = Some(id);
                }
                ("remove-device", vec![Remove])
            }
            Verb::Snapshot
            | Verb::LiveSnapshot
            | Verb::Restore
            | Verb::Ping
            | Verb::Metrics
            | Verb::Info
            | Verb::Counters
            | Verb::Resize
            | Verb::ResizeDisk
            | Verb::Receive
            | Verb::Nmi
            | Verb::Coredump
            | Verb::ResizeZone
            | Verb::AddForeign
            | Verb::Send => {
                return;
            }
        };
        let success = if verb == Verb::ShutdownMonitor { Reply::Empty200 } else { Reply::Empty204 };
        let mut plan = Plan::new(name, steps, Audience::Client(reply, success));
        (plan.config, plan.device, plan.new_device) = (config, device, new_device);
        self.begin(plan);
    }
}

impl Driver {
    /// vm.counters: asked of the device processes, beside the driver.
    fn tell_counters(&self, request: Request) {
        let devices = self.children.all_orders();
        tokio::spawn(async move {
            let counters = counters::collect(devices).await;
            request.answer(Reply::json(&counters));
        });
    }

    /// GET /metrics, likewise.
    fn tell_metrics(&mut self, request: Request) {
        let exits = self.ask_exits();
        let known = Known::of(&self.vm, &self.children, self.boots, self.fill.as_ref(), self.saves);
        let devices = self.children.all_orders();
        tokio::spawn(async move {
            let counters = counters::collect(devices).await;
            let told = match exits {
                Some(exits) => tokio::time::timeout(counters::LIMIT, exits).await.ok(),
                None => None,
            };
            // A machine that is at work, or has no guest, is left out.
            let exits = match told {
                Some(Ok(Ok(Outcome::Exits(exits)))) => exits,
                _ => BTreeMap::new(),
            };
            request.answer(Ok(Reply::Metrics(known.text(&counters, &exits))));
        });
    }

    /// Asks the machine how often vCPUs came back; one question at a time, so that there is always room for a command.
    fn ask_exits(&mut self) -> Option<oneshot::Receiver<Result<Outcome, Failure>>> {
        if !matches!(self.vm, Vm::Live(..)) || self.exits_asked.is_some() {
            return None;
        }
        let id = self.link.send(Command::CountExits, &[]).ok()?;
        let (answer, answered) = oneshot::channel();
        self.exits_asked = Some((id, answer));
        Some(answered)
    }

    /// vm.info; where memory can be plugged or given back, the process is asked how much is, beside the driver.
    fn tell_info(&self, request: Request) {
        let Some(mut info) = info::info(&self.vm, self.fill.as_ref(), self.work()) else {
            request.answer(Err(ApiError::not_created()));
            return;
        };
        let id = info.config.balloon.as_ref().and_then(|balloon| balloon.id.as_deref());
        let balloon = id.and_then(|id| self.children.orders(id));
        let plugged = self.children.orders(MEM_ID);
        if balloon.is_none() && plugged.is_none() {
            request.answer(Reply::json(&info));
            return;
        }
        let (told_plugged, told_given) = (self.plugged.clone(), self.given.clone());
        tokio::spawn(async move {
            let (more, less) = tokio::join!(told_plugged.now(plugged), told_given.now(balloon));
            info.memory_actual_size = info.memory_actual_size.saturating_add(more).saturating_sub(less);
            request.answer(Reply::json(&info));
        });
    }

    /// vm.resize before the boot. What is refused changes nothing.
    fn resize_cold(&mut self, wanted: VmResize) -> Result<(), ApiError> {
        let Vm::Created(created) = &mut self.vm else { return Err(ApiError::not_created()) };
        let mut config = created.config.clone();
        resize::cold(&mut config, wanted)?;
        created.checked = create::create(config.clone(), &self.defaults, &self.host)?.checked;
        created.config = config;
        Ok(())
    }

    /// vm.resize: of the balloon, and of memory that can be plugged. What is to stay as it is may be said, too.
    fn resize(&mut self, body: VmResize, reply: oneshot::Sender<Result<Reply, ApiError>>) {
        let resized = self.vm.created_mut().ok_or_else(ApiError::not_created);
        let resized = resized.and_then(|created| resize::live(created, body));
        match resized {
            // A client that hung up does not want to know.
            Ok(orders) if orders.is_empty() => drop(reply.send(Ok(Reply::Empty204))),
            Ok(orders) => {
                let steps = orders.iter().flat_map(|_| [Step::Order, Step::ConfigChanged]);
                let mut plan = Plan::new("resize", steps, Audience::Client(reply, Reply::Empty204));
                for SizeOrder { id, flag, size } in orders {
                    self.children.amend(&id, flag, size.to_string());
                    plan.orders.push_back((id, size.to_string().into_bytes()));
                }
                self.begin(plan);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// vm.resize-disk: the process changes the image, then the guest hears of it.
    fn resize_disk(&mut self, body: &VmResizeDisk, reply: oneshot::Sender<Result<Reply, ApiError>>) {
        if let Err(error) = self.vm.must_have_disk(&body.id) {
            // A client that hung up does not want to know.
            let _ = reply.send(Err(error));
            return;
        }
        let steps = [Step::Order, Step::ConfigChanged];
        let mut plan = Plan::new("resize-disk", steps, Audience::Client(reply, Reply::Empty204));
        plan.orders.push_back((body.id.clone(), format!("resize {}", body.desired_size).into_bytes()));
        self.begin(plan);
    }
}

/// Whether a request is answered beside whatever plan is under way.
fn answered_at_once(verb: Verb) -> bool {
    matches!(verb, Verb::Ping | Verb::Info | Verb::Metrics | Verb::Counters)
}
