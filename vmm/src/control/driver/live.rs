//! The steps of a live snapshot.
//!
//! ```text
//!  Track ─► Move ─► Pace ─┬─► Save ─► Copy ─► Release ─► Complete
//!           all     ▲     │    guest stops     runs on    files
//!                   └ Copy ◄ Harvest ◄┘ another round
//! ```
//! A round copies what was written to during the one before. They go on while that is much, and less each time.

use std::os::fd::AsFd;

use granule_api::error::{ApiError, ErrorKind};

use super::super::plan::{Plan, Progress, Step};
use super::super::refusal::refusal;
use super::super::transfer::{Save, Transfer};
use super::super::vm::Vm;
use super::Driver;
use super::transfers::failed;
use crate::wire::{Command, Failure, FdSlot, MoverOrder};

impl Driver {
    /// Starts a step that only a live snapshot has.
    pub(super) fn start_live(
        &mut self,
        step: Step,
        mut save: Box<Save>,
        plan: &mut Plan,
    ) -> Result<Progress, ApiError> {
        let progress = match step {
            Step::Track => {
                let machines = self.start_saving(step, &mut save)?;
                if let Some(guest) = self.vm.live_mut() {
                    guest.tracked = true;
                }
                self.command(Command::Track { mover: FdSlot(0) }, &[machines.as_fd()])?
            }
            Step::Pace => {
                if save.another_round() {
                    // The last one pushed comes first.
                    for next in [Step::Pace, Step::Copy, Step::Harvest] {
                        plan.steps.push_front(next);
                    }
                }
                Progress::Done
            }
            Step::Harvest => self.command(Command::Harvest, &[])?,
            Step::Copy => self.order_mover(step, &mut save, &MoverOrder::Round)?,
            Step::Release => self.command(Command::Release, &[])?,
            Step::Complete => self.order_mover(step, &mut save, &MoverOrder::Complete)?,
            _ => return Err(refusal(ErrorKind::Internal, "no step of a live snapshot")),
        };
        plan.transfer = Some(Transfer::Save(save));
        Ok(progress)
    }

    fn order_mover(&mut self, step: Step, save: &mut Save, order: &MoverOrder) -> Result<Progress, ApiError> {
        let id = self.link.skip_id();
        let Some(mover) = &mut save.mover else {
            return Err(refusal(ErrorKind::Internal, "no mover is at work"));
        };
        mover.order(id, order).map_err(|failure| failed(step, &failure))?;
        Ok(Progress::Awaits(id))
    }

    /// The machine's state is written: what is in it is what the configuration now names, for a guest may have let go of a
    /// device since the snapshot began.
    pub(super) fn on_saved(&mut self, plan: &mut Plan) -> Result<(), ApiError> {
        let (Some(Transfer::Save(save)), Vm::Live(created, _)) = (&mut plan.transfer, &self.vm) else {
            return Ok(());
        };
        save.describe(&created.config).map_err(|error| failed(Step::Save, &Failure::from(error)))
    }

    /// The guest runs on.
    pub(super) fn on_released(&mut self, paused_us: u64, plan: &mut Plan) {
        if let Some(guest) = self.vm.live_mut() {
            guest.tracked = false;
        }
        if let Some(Transfer::Save(save)) = &mut plan.transfer {
            save.paused_us = paused_us;
        }
    }

    /// Tells that there is a snapshot.
    pub(super) fn tell_saved(&mut self, plan: &Plan) {
        let Some(Transfer::Save(save)) = &plan.transfer else { return };
        self.saves.count(save);
        if !save.live {
            self.events.tell("vm", "snapshotted");
            return;
        }
        let last = save.rounds.last().copied().unwrap_or(0);
        let (paused_us, rounds) = (save.paused_us, save.rounds.len());
        tracing::info!(paused_us, rounds, pages_while_paused = last, "live snapshot");
        self.events.tell_live_snapshot(paused_us, rounds, last);
    }

    /// A live snapshot that failed leaves the guest as it was: it runs, and nothing is logged.
    pub(super) fn undo_tracking(&mut self) {
        let tracked = self.vm.live_mut().is_some_and(|guest| std::mem::take(&mut guest.tracked));
        if tracked {
            self.send_unawaited(Command::Release, &[]);
        }
    }
}
