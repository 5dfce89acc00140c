//! On-demand restore and post-copy: placing pages under a guest that already runs.
//!
//! ```text
//!   page    Missing ──claim (CAS)──► Filling ──data and tags through the alias, in any order──► Ready (release)
//!                                                                                                 │
//!           for each process (mm) that maps it:  not mapped ──────────UFFDIO_CONTINUE────────► mapped, waiters woken
//!
//!   toucher (vCPU, device process, KVM itself):   mapped? use it : send a fault to the pager and wait
//!
//!   pager   fault worker:       fault(mm, p) ─► Missing? claim, fill, publish : Filling? leave it : Ready? publish
//!           background worker:  any Missing p ─► claim, fill, publish            publish = CONTINUE in every mm
//!
//!   control pager gone ─► kill the guest         pause ─► wait for every toucher ─► stop the pager
//! ```
//!
//! | action | stands for |
//! |---|---|
//! | `Register` | UFFDIO_REGISTER MISSING\|MINOR by machine, and by each device process, on its own mapping; the fd goes to the mover |
//! | `Touch`, `Fault`, `Wake` | a load or store in that mm: `handle_userfault` (for a vCPU inside `user_mem_abort` → GUP) until CONTINUE wakes it |
//! | sanitise (inside `Touch` in mm 0) | `sanitise_mte_tags`: a page that is not PG_mte_tagged loses its tags when stage 2 maps it |
//! | `Claim` | mover: `compare_exchange(Missing, Filling)` on the page's state |
//! | `FillData`, `FillTags` | mover: copy to the alias; STG through the PROT_MTE alias (its first mapping sets PG_mte_tagged) |
//! | `Ready`, `Publish` | mover: release store of the state; UFFDIO_CONTINUE in one mm (EEXIST is fine) |
//! | `TakeLock` | a KVM ioctl or an ITS access that holds `kvm->slots_lock` or `its_lock` over an access to guest memory |
//! | `Split` | the kernel splits a huge folio: head's flags go to the tail (`__split_huge_page_tail`) |
//! | `PagerDies`, `Kill` | mover killed; control sees its socket close and ends the VM |
//! | `RequestPause`, `StopPager` | vm.pause while pages are missing; a vCPU in a userfault cannot be interrupted |
//!
//! Invariants: **P1** nobody uses a page that is not whole; **P2** no fill of a page that was published; **P3** every mm is
//! registered before the first fill; **P4** PG_mte_tagged is set before publication if a tag is not zero; **P5**
//! (liveness) every waiter is woken; **P6** the userfaultfd stays open while anybody can touch a missing page; **P7**
//! no huge folio, so that no split takes PG_mte_tagged from a page.

mod pager;
mod state;
mod touch;

pub use state::{Action, State};

use crate::checker::Model;
use state::{Fill, MMS, PAGES, Worker};

/// The protocol, or the protocol with one rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol that the mover follows.
    Real,
    /// UFFDIO_COPY, which maps the page with tags of zero, then the tags.
    CopyThenTags,
    /// Data, UFFDIO_CONTINUE, then the tags.
    ContinueThenTags,
    /// Tags by KVM_ARM_MTE_COPY_TAGS on the VM that runs, which takes the userfault itself.
    TagsByIoctl,
    /// The pager takes a lock that a thread may hold while it waits for a page.
    SharesLock,
    /// "Is it missing?" and "it is mine" are two steps.
    ClaimNotAtomic,
    /// The state says Ready before data and tags are written (store without release).
    ReadyTooEarly,
    /// A device process does not register its mapping.
    DeviceNotRegistered,
    /// The pager does not wait until every mm is registered.
    FillsBeforeRegistration,
    /// Registration for MISSING alone, with pages of an earlier pre-copy in the page cache.
    MissingOnly,
    /// CONTINUE in the mm that faulted only.
    PublishesInOneMm,
    /// The only descriptor of the userfaultfd dies with the pager.
    DeathClosesFd,
    /// The pager stops as soon as the VM is asked to pause.
    PauseStopsPager,
    /// Guest memory may be huge folios.
    HugeFolios,
}

impl Variant {
    /// Every mutant with the surroundings that it needs.
    pub const MUTANTS: [(Self, Surroundings); 13] = [
        (Self::CopyThenTags, Surroundings::Calm),
        (Self::ContinueThenTags, Surroundings::Calm),
        (Self::TagsByIoctl, Surroundings::Calm),
        (Self::SharesLock, Surroundings::Calm),
        (Self::ClaimNotAtomic, Surroundings::Calm),
        (Self::ReadyTooEarly, Surroundings::Calm),
        (Self::DeviceNotRegistered, Surroundings::Calm),
        (Self::FillsBeforeRegistration, Surroundings::Calm),
        (Self::MissingOnly, Surroundings::Calm),
        (Self::PublishesInOneMm, Surroundings::Calm),
        (Self::DeathClosesFd, Surroundings::PagerMayDie),
        (Self::PauseStopsPager, Surroundings::Pause),
        (Self::HugeFolios, Surroundings::Calm),
    ];
}

/// What else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// Nothing.
    Calm,
    /// The pager may be killed at any moment.
    PagerMayDie,
    /// The VM is paused at any moment.
    Pause,
}

/// The model of one variant in its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// What is modelled.
    pub variant: Variant,
    /// What else happens.
    pub surroundings: Surroundings,
}

impl Model for Placement {
    type State = State;
    type Action = Action;
    const LIVENESS: &'static str = "P5 every waiter is woken";

    fn initial(&self) -> State {
        State::new()
    }

    fn actions(&self, state: &State, out: &mut Vec<(Action, State)>) {
        if state.killed {
            return;
        }
        for mm in 0..MMS {
            let never = mm == 1 && self.variant == Variant::DeviceNotRegistered;
            if !state.registered[mm] && !never {
                let mut next = *state;
                next.registered[mm] = true;
                out.push((Action::Register { mm }, next));
            }
        }
        self.touchers(state, out);
        if !state.pager_gone {
            self.pager(state, out);
        }
        self.surroundings(state, out);
    }

    fn broken(&self, state: &State, out: &mut Vec<&'static str>) {
        out.extend(state.bad.names());
        if state.fd_closed && !state.killed && !state.all_published() {
            out.push("P6 userfaultfd outlives every toucher");
        }
    }

    fn done(&self, state: &State) -> bool {
        let all_out = state.touchers.iter().all(|toucher| !toucher.waiting);
        let finished = state.touchers.iter().all(|toucher| toucher.finished());
        state.killed || (state.pausing && all_out && state.pager_gone) || (finished && state.all_published())
    }
}

impl Placement {
    fn surroundings(&self, state: &State, out: &mut Vec<(Action, State)>) {
        let mut next = *state;
        match self.surroundings {
            Surroundings::Calm => {}
            Surroundings::PagerMayDie if !state.pager_gone => {
                next.pager_gone = true;
                next.fd_closed = self.variant == Variant::DeathClosesFd;
                out.push((Action::PagerDies, next));
            }
            Surroundings::PagerMayDie => {
                next.killed = true;
                out.push((Action::Kill, next));
            }
            Surroundings::Pause if !state.pausing => {
                next.pausing = true;
                out.push((Action::RequestPause, next));
            }
            Surroundings::Pause => {
                let all_out = state.touchers.iter().all(|toucher| !toucher.waiting);
                if !state.pager_gone && (all_out || self.variant == Variant::PauseStopsPager) {
                    next.pager_gone = true;
                    out.push((Action::StopPager, next));
                }
            }
        }
        let (head, tail) = (state.pages[0].tagged, state.pages[1].tagged);
        let both_present = state.pages[0].present && state.pages[1].present;
        if self.variant == Variant::HugeFolios && !state.split && both_present && tail && !head {
            let mut next = *state;
            next.split = true;
            next.pages[1].tagged = false;
            next.bad.flag_taken = true;
            out.push((Action::Split, next));
        }
    }
}
