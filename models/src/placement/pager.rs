//! The mover's two threads: one answers faults, one fills in the background.

use super::state::{Lock, SAVED, ZERO};
use super::{Action, Fill, MMS, PAGES, Placement, State, Variant, Worker};

const FAULTS: usize = 0;
const BACKGROUND: usize = 1;

impl Placement {
    pub(super) fn pager(&self, state: &State, out: &mut Vec<(Action, State)>) {
        for worker in [FAULTS, BACKGROUND] {
            match state.workers[worker] {
                Worker::Idle if worker == FAULTS => self.answer_faults(state, out),
                Worker::Idle => {
                    for page in (0..PAGES).filter(|page| state.pages[*page].fill == Fill::Missing) {
                        self.claim(state, BACKGROUND, page, 0, out);
                    }
                }
                Worker::Claiming { page, mm } => out.push(Self::claimed(*state, worker, page, mm)),
                Worker::Filling { .. } => self.fill(state, worker, out),
                Worker::InIoctl { page, mm } => {
                    // Goes on when the page is mapped in the machine, which is this thread's own next step.
                    if state.pages[page].mapped[0] {
                        let mut next = *state;
                        next.lock = Lock::Free;
                        next.workers[worker] =
                            Worker::Filling { page, mm, data: true, tags: true, ready: false };
                        out.push((Action::FillTags { worker, page }, next));
                    }
                }
                Worker::Publishing { page, mm, only } => {
                    let mut next = *state;
                    Self::publish(&mut next, page, mm);
                    let more = only.is_none() && mm + 1 < MMS;
                    next.workers[worker] =
                        if more { Worker::Publishing { page, mm: mm + 1, only } } else { Worker::Idle };
                    out.push((Action::Publish { worker, page, mm }, next));
                }
            }
        }
    }

    fn answer_faults(&self, state: &State, out: &mut Vec<(Action, State)>) {
        for (page, mm) in (0..PAGES).flat_map(|page| (0..MMS).map(move |mm| (page, mm))) {
            if !state.pages[page].events[mm] {
                continue;
            }
            let mut next = *state;
            next.pages[page].events[mm] = false;
            match state.pages[page].fill {
                Fill::Missing => self.claim(&next, FAULTS, page, mm, out),
                // Whoever fills it publishes it in every mm, this one too.
                Fill::Filling => out.push((Action::LeaveEvent { worker: FAULTS, page }, next)),
                Fill::Ready => {
                    Self::publish(&mut next, page, mm);
                    out.push((Action::Publish { worker: FAULTS, page, mm }, next));
                }
            }
        }
    }

    fn claim(&self, state: &State, worker: usize, page: usize, mm: usize, out: &mut Vec<(Action, State)>) {
        let early = matches!(self.variant, Variant::FillsBeforeRegistration | Variant::DeviceNotRegistered);
        if !early && state.registered.contains(&false) {
            return;
        }
        if self.variant == Variant::ClaimNotAtomic {
            let mut next = *state;
            next.workers[worker] = Worker::Claiming { page, mm };
            out.push((Action::SeeMissing { worker, page }, next));
        } else {
            out.push(Self::claimed(*state, worker, page, mm));
        }
    }

    fn claimed(mut next: State, worker: usize, page: usize, mm: usize) -> (Action, State) {
        next.bad.filled_unregistered |= next.registered.contains(&false);
        next.pages[page].fill = Fill::Filling;
        next.workers[worker] = Worker::Filling { page, mm, data: false, tags: false, ready: false };
        (Action::Claim { worker, page }, next)
    }

    /// The steps between claim and publication, those that can happen now.
    fn fill(&self, state: &State, worker: usize, out: &mut Vec<(Action, State)>) {
        let Worker::Filling { page, mm, data, tags, ready } = state.workers[worker] else { return };
        let at = |data, tags, ready| Worker::Filling { page, mm, data, tags, ready };

        let locked_out = self.variant == Variant::SharesLock && state.lock != Lock::Free;
        if !data && !locked_out {
            let mut next = *state;
            next.workers[worker] = at(true, tags, ready);
            out.push(self.fill_data(next, worker, page));
        }
        let tags_wait =
            matches!(self.variant, Variant::CopyThenTags | Variant::ContinueThenTags | Variant::TagsByIoctl);
        if !tags && (data || !tags_wait) {
            let mut next = *state;
            if self.variant == Variant::TagsByIoctl {
                if state.lock == Lock::Free {
                    next.lock = Lock::Pager(worker);
                    next.workers[worker] = Worker::InIoctl { page, mm };
                    out.push((Action::EnterIoctl { worker, page }, next));
                }
            } else {
                next.workers[worker] = at(data, true, ready);
                Self::note_refill(&mut next, page);
                let target = &mut next.pages[page];
                (target.present, target.tag, target.tagged) = (true, SAVED, true);
                out.push((Action::FillTags { worker, page }, next));
            }
        }
        if self.variant == Variant::ContinueThenTags && data && !tags && !state.pages[page].mapped[0] {
            let mut next = *state;
            Self::publish(&mut next, page, 0);
            out.push((Action::Publish { worker, page, mm: 0 }, next));
        }
        if !ready && ((data && tags) || self.variant == Variant::ReadyTooEarly) {
            let mut next = *state;
            next.pages[page].fill = Fill::Ready;
            let only = (self.variant == Variant::PublishesInOneMm).then_some(mm);
            next.workers[worker] = if data && tags {
                Worker::Publishing { page, mm: only.unwrap_or(0), only }
            } else {
                at(data, tags, true)
            };
            out.push((Action::Ready { worker, page }, next));
        }
        if ready && data && tags {
            let mut next = *state;
            next.workers[worker] = Worker::Publishing { page, mm: 0, only: None };
            self.pager(&next, out);
        }
    }

    fn fill_data(&self, mut next: State, worker: usize, page: usize) -> (Action, State) {
        Self::note_refill(&mut next, page);
        let target = &mut next.pages[page];
        if self.variant == Variant::CopyThenTags && !target.present {
            (target.present, target.data, target.tag) = (true, SAVED, ZERO);
            Self::publish(&mut next, page, 0);
            return (Action::UffdCopy { worker, page }, next);
        }
        (target.present, target.data) = (true, SAVED);
        (Action::FillData { worker, page }, next)
    }

    /// Filling what somebody may already be using is the mistake, whatever it then overwrites.
    fn note_refill(state: &mut State, page: usize) {
        state.bad.overwritten |= state.pages[page].mapped.contains(&true);
    }

    /// UFFDIO_CONTINUE in one mm; where it is mapped already the kernel says EEXIST, which is fine.
    fn publish(state: &mut State, page: usize, mm: usize) {
        let target = &mut state.pages[page];
        if !target.mapped[mm] {
            state.bad.published_untagged |= !target.tagged;
            target.mapped[mm] = true;
        }
    }
}
