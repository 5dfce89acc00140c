//! A guest that was restored on demand: its memory comes while it runs, when the plan of its restore has ended.
//!
//! ```text
//!   Filling ── Restored ──► Complete           event memory-complete
//!      │
//!      └── the mover fails or dies ──► Lost     event memory-lost, with the reason; vm.info has it until another guest begins
//! ```
//! When it is lost the machine stops the vCPUs by itself (`machine/guest/late.rs`); here the device processes are ended,
//! which may wait for pages, and then the machine.

use granule_api::error::{ApiError, ErrorKind};

use super::super::plan::{Audience, Plan, Step};
use super::super::refusal::refusal;
use super::super::transfer::Moved;
use super::super::vm::Vm;
use super::Driver;
use crate::wire::FromMover;

impl Driver {
    /// Takes in what a mover says that places pages; hands back what another says.
    pub(super) fn on_placed(&mut self, moved: Moved) -> Option<Moved> {
        let of_fill = |fill: &&mut super::Fill| fill.mover.as_ref().is_some_and(|mover| mover.id == moved.id);
        let Some(fill) = self.fill.as_mut().filter(of_fill) else { return Some(moved) };
        match moved.message {
            FromMover::Placed { done, of, faults } => {
                (fill.done, fill.of, fill.faults) = (done, of, faults);
            }
            FromMover::Restored => {
                fill.mover = None;
                self.children.memory_is_there();
                self.events.tell("vm", "memory-complete");
            }
            _ if fill.ending => fill.mover = None,
            FromMover::Failed(failure) => self.lose_memory(failure.causes.join(": ")),
            _ => self.lose_memory("the mover did another job than it was given".into()),
        }
        None
    }

    /// Pages are missing, and nobody places them: the guest must not go on.
    fn lose_memory(&mut self, reason: String) {
        tracing::error!(reason, "guest memory cannot be completed; the guest is stopped");
        self.events.tell_why("memory-lost", &reason);
        if let Some(fill) = &mut self.fill {
            fill.mover = None;
            fill.lost = Some(reason);
        }
        self.children.end_all();
        // Before, the plan of the restore finds it out.
        if matches!(self.vm, Vm::Live(..)) {
            let steps = [Step::Stop, Step::Tell("shutdown")];
            self.queue_for_guest(Plan::new("memory lost", steps, Audience::Log));
        }
    }

    /// Why memory was lost, if it was.
    pub(super) fn lost(&self) -> Option<&str> {
        self.fill.as_ref()?.lost.as_deref()
    }

    /// Whether pages are missing.
    pub(super) fn is_filling(&self) -> bool {
        self.fill.as_ref().is_some_and(|fill| fill.mover.is_some())
    }

    /// The guest is being stopped. Who waits for a page is still given it.
    pub(super) fn expect_no_more_memory(&mut self) {
        if let Some(fill) = &mut self.fill {
            fill.ending = true;
        }
    }

    /// The guest is gone, and its memory with it; what became of that is remembered where it is the reason.
    pub(super) fn forget_memory(&mut self) {
        if self.lost().is_none() {
            self.fill = None;
        }
    }
}

/// What must wait until all of memory is there.
pub(super) fn too_early() -> ApiError {
    refusal(ErrorKind::WrongState, "not while the VM's memory is being restored")
        .because("vm.info says in memory_restore how far it is; the event memory-complete tells when")
}
