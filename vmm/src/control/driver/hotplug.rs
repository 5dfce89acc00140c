//! vm.add-* and vm.remove-device.
//!
//! ```text
//!  created:  check ─► configuration changed ─► 204
//!  live:     Admit ─► ConnectNew ─► Add: plan, start, AddDevice ─► configuration changed ─► 200 {id, bdf}
//!            Remove: RemoveDevice ─► configuration changed ─► 204 … DeviceRemoved ─► its process ends
//! ```
//! Until a step has succeeded nothing has changed: what fails has its process ended, and the configuration is as it was.

use std::os::fd::AsFd;

use granule_api::error::{ApiError, ErrorKind};
use granule_api::server::Reply;
use granule_api::types::PciDeviceInfo;

use super::super::addition::{self, NewDevice, Removal};
use super::super::boot::{self, BootError};
use super::super::create;
use super::super::devices;
use super::super::image_cache;
use super::super::info;
use super::super::plan::{Audience, Plan, Progress, Step};
use super::super::refusal::refusal;
use super::super::vm::{MteDecision, Vm};
use super::Driver;
use crate::wire::{Command, DeviceReport};

const NOT_LIVE: &str = "VM is not booted";
const NOT_ADDED: &str = "The device could not be added to the VM";

impl Driver {
    /// Adds a device to a VM that is not booted: its configuration changes, nothing else.
    pub(super) fn add_cold(&mut self, mut device: NewDevice) -> Result<(), ApiError> {
        let Vm::Created(created) = &mut self.vm else { return Err(ApiError::not_created()) };
        let passed = device.take_passed();
        // What came along is kept by the device's name.
        let name = (!passed.is_empty()).then(|| device.name(&created.config, &mut created.ids));
        let mut config = created.config.clone();
        device.join(&mut config)?;
        created.checked = create::create(config.clone(), &self.defaults, &self.host)?.checked;
        created.config = config;
        created.passed.extend(name.map(|name| (name, passed)));
        Ok(())
    }

    /// Checks the plan's device against all that is there.
    pub(super) fn admit_device(&mut self, plan: &mut Plan) -> Result<Progress, ApiError> {
        let (Vm::Live(created, _), Some(device)) = (&mut self.vm, plan.new_device.take()) else {
            return Err(refusal(ErrorKind::WrongState, NOT_LIVE));
        };
        let addition = device.admit(&created.config, &mut created.ids, &self.defaults, &self.host)?;
        plan.addition = Some(Box::new(addition));
        Ok(Progress::Done)
    }

    /// Opens what the plan's device works on, starts its process, and has `machine` put it into a slot.
    pub(super) fn start_adding(&mut self, plan: &mut Plan) -> Result<Progress, ApiError> {
        let (Vm::Live(created, live), Some(addition)) = (&mut self.vm, &mut plan.addition) else {
            return Err(refusal(ErrorKind::WrongState, NOT_LIVE));
        };
        // One whose removal is under way may still have the name.
        if live.report.devices.iter().any(|device| device.id == addition.id) {
            let taken = format!("`{}` is the name of a device that the guest has not let go of", addition.id);
            return Err(refusal(ErrorKind::Conflict, &taken));
        }
        let of = devices::For { mte: created.mte == MteDecision::On, restored: false };
        let passed = std::mem::take(&mut addition.passed);
        if !passed.is_empty() {
            created.passed.insert(addition.id.clone(), passed);
        }
        let planned = devices::plan(
            &mut addition.alone,
            &addition.alone_checked,
            &mut created.ids,
            &mut self.connections,
            &created.passed,
            &mut created.groups,
            of,
        );
        let device = planned.map_err(BootError::from).and_then(|planned| {
            let device = planned.into_iter().find(|device| device.id() == addition.id);
            boot::start_device(device, &mut self.children)
        });
        let started = device.map_err(|error| error.into_api(NOT_ADDED));
        let (spec, fds) = started.inspect_err(|_| self.abandon(plan))?;
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.command(Command::AddDevice(Box::new(spec)), &borrowed);
        sent.inspect_err(|_| self.abandon(plan))
    }

    /// The plan's device could not be added.
    pub(super) fn abandon(&mut self, plan: &Plan) {
        if let Some(addition) = &plan.addition {
            self.children.end(&addition.id);
            if let Vm::Live(created, _) = &mut self.vm {
                created.passed.remove(&addition.id);
            }
        }
    }

    /// The plan's device is in its slot.
    pub(super) fn on_added(&mut self, report: DeviceReport, plan: &mut Plan) -> Result<(), ApiError> {
        let (Vm::Live(created, live), Some(addition)) = (&mut self.vm, plan.addition.take()) else {
            return Err(refusal(ErrorKind::WrongState, NOT_LIVE));
        };
        created.config = addition.whole;
        created.checked = addition.checked;
        let answer = Reply::json(&PciDeviceInfo { id: addition.id, bdf: report.bdf.clone() })?;
        if let Audience::Client(_, success) = &mut plan.audience {
            *success = answer;
        }
        self.events.tell_device("added", &report.id);
        live.report.devices.push(report);
        live.jail = info::jail(&self.children);
        Ok(())
    }

    /// Removes a device from a VM that is not booted.
    pub(super) fn remove_cold(&mut self, id: &str) -> Result<(), ApiError> {
        let Vm::Created(created) = &mut self.vm else { return Err(ApiError::not_created()) };
        let mut config = created.config.clone();
        match addition::remove(&mut config, id) {
            Removal::Unknown => return Err(unknown(id)),
            Removal::Fixed => return Err(fixed(id)),
            Removal::Removed => {}
        }
        created.checked = create::create(config.clone(), &self.defaults, &self.host)?.checked;
        created.config = config;
        created.passed.remove(id);
        Ok(())
    }

    /// Has the guest asked to let go of the plan's device.
    pub(super) fn start_removing(&mut self, plan: &Plan) -> Result<Progress, ApiError> {
        let (Vm::Live(_, live), Some(id)) = (&self.vm, &plan.device) else {
            return Err(refusal(ErrorKind::WrongState, NOT_LIVE));
        };
        if !live.report.devices.iter().any(|device| device.id == *id) {
            return Err(unknown(id));
        }
        self.command(Command::RemoveDevice { id: id.clone() }, &[])
    }

    /// The guest was asked: the device is no more part of the configuration, whenever the guest lets go of it.
    pub(super) fn on_removing(&mut self, plan: &Plan) -> Result<(), ApiError> {
        let (Vm::Live(created, _), Some(id)) = (&mut self.vm, &plan.device) else { return Ok(()) };
        let mut config = created.config.clone();
        // One that is asked for again is not there any more.
        if addition::remove(&mut config, id) == Removal::Removed {
            created.checked = create::create(config.clone(), &self.defaults, &self.host)?.checked;
            created.config = config;
            created.passed.remove(id);
            self.events.tell_device("removing", id);
        }
        Ok(())
    }

    /// The guest has let go of a device, and its bus too: what served it ends.
    pub(super) fn on_removed(&mut self, id: &str) {
        self.children.end(id);
        // Of an image that nobody else has.
        image_cache::sweep();
        if let Some(live) = self.vm.live_mut() {
            live.report.devices.retain(|device| device.id != id);
            live.jail = info::jail(&self.children);
        }
        self.events.tell_device("removed", id);
    }
}

/// The steps that add a device to a guest that runs.
pub(super) const ADD: [Step; 3] = [Step::Admit, Step::ConnectNew, Step::Add];

fn unknown(id: &str) -> ApiError {
    refusal(ErrorKind::NotFound, &format!("there is no device `{id}`"))
}

fn fixed(id: &str) -> ApiError {
    refusal(ErrorKind::BadRequest, &format!("a VM cannot be without `{id}`"))
}
