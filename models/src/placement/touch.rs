//! Those who use guest memory: a vCPU, a device process, and KVM itself.

use super::state::{Lock, SAVED, WRITTEN, ZERO};
use super::{Action, Placement, State, Variant};

/// Who touches what, in which address space, in which order.
struct Plan {
    name: &'static str,
    mm: usize,
    pages: &'static [usize],
    /// Loads and stores tags too (a device's mapping has none).
    tags: bool,
    /// Holds the lock over the access.
    locks: bool,
}

const PLANS: [Plan; 3] = [
    Plan { name: "vCPU", mm: 0, pages: &[0, 1], tags: true, locks: false },
    Plan { name: "device", mm: 1, pages: &[1, 0], tags: false, locks: false },
    Plan { name: "KVM", mm: 0, pages: &[0], tags: false, locks: true },
];

impl Placement {
    pub(super) fn touchers(&self, state: &State, out: &mut Vec<(Action, State)>) {
        for (index, plan) in PLANS.iter().enumerate() {
            let toucher = state.touchers[index];
            if !toucher.finished() {
                self.touch(state, index, plan, plan.pages[usize::from(toucher.used)], out);
            }
        }
    }

    fn touch(&self, state: &State, index: usize, plan: &Plan, number: usize, out: &mut Vec<(Action, State)>) {
        let (toucher, page) = (state.touchers[index], state.pages[number]);
        if state.pausing && !toucher.waiting {
            return;
        }
        let unregistered_device = plan.mm == 1 && self.variant == Variant::DeviceNotRegistered;
        if !state.registered[plan.mm] && !unregistered_device {
            return; // Starts after it has registered.
        }
        if plan.locks && state.lock != Lock::Toucher {
            if state.lock == Lock::Free {
                let mut next = *state;
                next.lock = Lock::Toucher;
                out.push((Action::TakeLock { by: plan.name }, next));
            }
            return;
        }
        let watched = state.registered[plan.mm] && !state.fd_closed;
        let traps = watched && (!page.present || self.variant != Variant::MissingOnly);
        if page.mapped[plan.mm] || !traps {
            let mut next = *state;
            Self::access(&mut next, plan, number);
            next.touchers[index].used += 1;
            next.touchers[index].waiting = false;
            if plan.locks {
                next.lock = Lock::Free;
            }
            out.push((Action::Touch { by: plan.name, page: number }, next));
        } else if !toucher.waiting {
            let mut next = *state;
            next.touchers[index].waiting = true;
            next.pages[number].events[plan.mm] = true;
            out.push((Action::Fault { by: plan.name, page: number }, next));
        }
    }

    /// Uses the page as it is: loads it, checks what was seen, stores to it.
    fn access(state: &mut State, plan: &Plan, number: usize) {
        let page = &mut state.pages[number];
        if !page.present {
            (page.present, page.data, page.tag) = (true, ZERO, ZERO);
        }
        if plan.mm == 0 && !page.tagged {
            // sanitise_mte_tags, before stage 2 maps the page
            (page.tag, page.tagged) = (ZERO, true);
        }
        page.mapped[plan.mm] = true;
        let mut check = |seen: u8, wanted: u8| {
            if seen != wanted && wanted == SAVED {
                state.bad.not_whole = true;
            } else if seen != wanted {
                state.bad.overwritten = true;
            }
        };
        check(page.data, page.want_data);
        if plan.tags {
            check(page.tag, page.want_tag);
        }
        (page.data, page.want_data) = (WRITTEN, WRITTEN);
        if plan.tags {
            (page.tag, page.want_tag) = (WRITTEN, WRITTEN);
        }
    }
}
