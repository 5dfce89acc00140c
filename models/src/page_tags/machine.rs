//! A few threads that run kernel and guest operations, out of order where nothing forbids it, on two pages.

use std::fmt;

use super::Scenario;
use crate::checker::Model;

/// Pages: 0 (head of the folio in the split scenarios) and 1 (tail; destination of copies).
pub const PAGES: usize = 2;
/// Granules of each page. Two, so that a half-done initialisation can be seen.
pub const GRANULES: usize = 2;
/// Mappings of each page: 0 a guest's stage 2, 1 another VM's or a PROT_MTE one at EL0.
pub const MAPPINGS: usize = 2;
/// Most threads in a scenario.
pub const THREADS: usize = 4;

/// What a tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tag {
    /// Whatever the last owner of the page left.
    Stale = 1,
    /// Zero.
    Zero = 2,
    /// Stored by a guest.
    Guest = 4,
    /// From the buffer of TO_GUEST.
    Buffer = 8,
    /// Saved at swap-out.
    Swapped = 16,
}

/// One atomic step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each is a line of the table in the module above, fields are page, mapping, granule"
)]
pub enum Op {
    /// `test_and_set_bit(PG_mte_lock)`.
    Lock(usize),
    /// The loser's spin; cannot happen before the flag is set.
    AwaitTagged(usize),
    LoadFlag(usize),
    LoadTag(usize, usize),
    /// Writes a tag on behalf of the kernel: clearing, or TO_GUEST's store.
    Put(usize, usize, Tag),
    /// Writes what `LoadTag` read.
    PutLoaded(usize, usize),
    /// Sets the flag; the tags are then as given, if the page was not tagged before.
    SetTagged(usize, Option<Tag>),
    Map(usize, usize),
    /// Guest STG, through a mapping.
    Store(usize, usize, usize),
    /// Guest LDG, through a mapping.
    Load(usize, usize, usize),
    BeginFrom(usize),
    ReturnFrom(usize),
    /// What the destination must come to hold is what the source must hold now.
    BeginCopy {
        from: usize,
        to: usize,
    },
    /// Cannot happen before these threads (a mask) have ended.
    Await(u8),
    Free {
        page: usize,
        keep_flags: bool,
    },
    Split,
}

/// Operations that may run in any order in which each comes after those in its mask.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The operations and, for each, which others (by bit) it comes after.
    pub ops: Vec<(Op, u8)>,
    /// Where to go when all are done.
    pub next: Next,
}

/// Where a thread goes at the end of a block, counted from that block.
#[derive(Clone, Copy, Debug, Default)]
pub enum Next {
    /// To the next block.
    #[default]
    Block,
    /// On by the first number if the lock was taken, else by the second.
    IfLocked(u8, u8),
    /// On by the first number if the flag was seen, else by the second.
    IfFlagged(u8, u8),
    /// On by this many.
    Skip(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Page {
    lock: bool,
    tagged: bool,
    tags: [Tag; GRANULES],
    mapped: [bool; MAPPINGS],
    /// What an observer must see.
    want: [Tag; GRANULES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Thread {
    block: u8,
    done: u8,
    locked: bool,
    flagged: bool,
    loaded: [Tag; GRANULES],
    /// The page that a FROM_GUEST is reading, and all that it may return (bits of [`Tag`]).
    reading: Option<u8>,
    may_return: [u8; GRANULES],
}

/// The whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pages: [Page; PAGES],
    threads: [Thread; THREADS],
    stale_seen: bool,
    tags_lost: bool,
    wrong_copy: bool,
}

/// One thread's step.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    thread: &'static str,
    op: Op,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.thread, self.op)
    }
}

impl Model for Scenario {
    type State = State;
    type Action = Action;
    const LIVENESS: &'static str = "I4 every initialisation ends";

    fn initial(&self) -> State {
        let want = if self.swapped_out { Tag::Swapped } else { Tag::Zero };
        let page = Page {
            lock: false,
            tagged: false,
            tags: [Tag::Stale; GRANULES],
            mapped: [false; MAPPINGS],
            want: [want; GRANULES],
        };
        let thread = Thread {
            block: 0,
            done: 0,
            locked: false,
            flagged: false,
            loaded: [Tag::Zero; GRANULES],
            reading: None,
            may_return: [0; GRANULES],
        };
        State {
            pages: [page; PAGES],
            threads: [thread; THREADS],
            stale_seen: false,
            tags_lost: false,
            wrong_copy: false,
        }
    }

    fn actions(&self, state: &State, out: &mut Vec<(Action, State)>) {
        for (index, (name, program)) in self.threads.iter().enumerate() {
            let thread = &state.threads[index];
            let Some(block) = program.get(usize::from(thread.block)) else { continue };
            for (number, &(op, after)) in block.ops.iter().enumerate() {
                let bit = 1u8 << number;
                if thread.done & bit != 0 || thread.done & after != after || !self.enabled(state, op) {
                    continue;
                }
                let mut next = *state;
                next.execute(index, op);
                let thread = &mut next.threads[index];
                thread.done |= bit;
                if thread.done.count_ones() as usize == block.ops.len() {
                    thread.advance(block.next);
                }
                out.push((Action { thread: name, op }, next));
            }
        }
    }

    fn broken(&self, state: &State, out: &mut Vec<&'static str>) {
        let all = [
            (state.stale_seen, "I1 no stale tag is seen"),
            (state.tags_lost, "I2 tags change by stores only"),
            (state.wrong_copy, "I3 FROM_GUEST is current"),
        ];
        out.extend(all.into_iter().filter(|(bad, _)| *bad).map(|(_, name)| name));
    }

    fn done(&self, state: &State) -> bool {
        (0..self.threads.len()).all(|thread| self.ended(state, thread))
    }
}

impl Scenario {
    fn ended(&self, state: &State, thread: usize) -> bool {
        usize::from(state.threads[thread].block) >= self.threads[thread].1.len()
    }

    fn enabled(&self, state: &State, op: Op) -> bool {
        match op {
            Op::AwaitTagged(page) => state.pages[page].tagged,
            Op::Store(page, mapping, _) | Op::Load(page, mapping, _) => state.pages[page].mapped[mapping],
            Op::Await(mask) => {
                (0..self.threads.len()).all(|thread| mask & 1 << thread == 0 || self.ended(state, thread))
            }
            _ => true,
        }
    }
}

impl Thread {
    fn advance(&mut self, next: Next) {
        let by = match next {
            Next::Block => 1,
            Next::Skip(by) => by,
            Next::IfLocked(yes, no) => {
                if self.locked {
                    yes
                } else {
                    no
                }
            }
            Next::IfFlagged(yes, no) => {
                if self.flagged {
                    yes
                } else {
                    no
                }
            }
        };
        // What was read in this block decides nothing later.
        (self.done, self.locked, self.flagged) = (0, false, false);
        self.block += by;
    }
}

impl State {
    fn execute(&mut self, thread: usize, op: Op) {
        match op {
            Op::Lock(page) => {
                self.threads[thread].locked = !std::mem::replace(&mut self.pages[page].lock, true);
            }
            Op::LoadFlag(page) => self.threads[thread].flagged = self.pages[page].tagged,
            Op::LoadTag(page, granule) => {
                self.threads[thread].loaded[granule] = self.pages[page].tags[granule];
            }
            Op::Put(page, granule, tag) => {
                self.pages[page].tags[granule] = tag;
                if tag == Tag::Buffer && self.pages[page].tagged {
                    self.want(page, granule, tag); // an explicit store to a page in use
                }
            }
            Op::PutLoaded(page, granule) => {
                self.pages[page].tags[granule] = self.threads[thread].loaded[granule];
            }
            Op::SetTagged(page, tags) => {
                let first = !std::mem::replace(&mut self.pages[page].tagged, true);
                if let (true, Some(tag)) = (first, tags) {
                    (0..GRANULES).for_each(|granule| self.want(page, granule, tag));
                }
            }
            Op::Map(page, mapping) => self.pages[page].mapped[mapping] = true,
            Op::Store(page, _, granule) => {
                self.pages[page].tags[granule] = Tag::Guest;
                self.want(page, granule, Tag::Guest);
            }
            Op::Load(page, _, granule) => {
                let page = &self.pages[page];
                self.stale_seen |= page.tags[granule] == Tag::Stale;
                self.tags_lost |=
                    page.tags[granule] != Tag::Stale && page.tags[granule] != page.want[granule];
            }
            Op::BeginFrom(page) => {
                self.threads[thread].reading = u8::try_from(page).ok();
                self.threads[thread].may_return = self.pages[page].want.map(|tag| tag as u8);
            }
            Op::ReturnFrom(_) => {
                let it = &mut self.threads[thread];
                for granule in 0..GRANULES {
                    let result = if it.flagged { it.loaded[granule] } else { Tag::Zero };
                    self.wrong_copy |= result as u8 & it.may_return[granule] == 0;
                }
                it.reading = None;
            }
            Op::BeginCopy { from, to } => self.pages[to].want = self.pages[from].want,
            Op::Free { page, keep_flags } => {
                let page = &mut self.pages[page];
                page.lock &= keep_flags;
                page.tagged &= keep_flags;
                (page.mapped, page.want) = ([false; MAPPINGS], [Tag::Zero; GRANULES]);
                page.tags = [Tag::Stale; GRANULES];
            }
            Op::Split => {
                (self.pages[1].lock, self.pages[1].tagged) = (self.pages[0].lock, self.pages[0].tagged);
                self.pages.iter_mut().for_each(|page| page.mapped = [false; MAPPINGS]);
            }
            Op::AwaitTagged(_) | Op::Await(_) => {}
        }
    }

    /// From now on an observer must see `tag`; a FROM_GUEST that is under way may return it or what was before.
    fn want(&mut self, page: usize, granule: usize, tag: Tag) {
        self.pages[page].want[granule] = tag;
        for thread in &mut self.threads {
            if thread.reading.is_some_and(|reading| usize::from(reading) == page) {
                thread.may_return[granule] |= tag as u8;
            }
        }
    }
}
