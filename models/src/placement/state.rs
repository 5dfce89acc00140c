//! The state of the placement model.

use std::fmt;

/// Page 0 is a hole; page 1 is in the page cache with what an earlier pre-copy round left there.
pub(super) const PAGES: usize = 2;
/// Address spaces: 0 is the machine (vCPUs and KVM), 1 is a device process.
pub(super) const MMS: usize = 2;

/// What data or tags are: nothing yet.
pub(super) const ZERO: u8 = 0;
/// What data or tags are: of an earlier moment of the source.
pub(super) const STALE: u8 = 1;
/// What data or tags are: as saved.
pub(super) const SAVED: u8 = 2;
/// What data or tags are: written by the guest or a device after the restore.
pub(super) const WRITTEN: u8 = 3;

/// The mover's state of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fill {
    Missing,
    Filling,
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Page {
    /// In the page cache of the memfd.
    pub(super) present: bool,
    pub(super) data: u8,
    pub(super) tag: u8,
    /// PG_mte_tagged.
    pub(super) tagged: bool,
    pub(super) fill: Fill,
    pub(super) mapped: [bool; MMS],
    /// The userfault event of each mm that the pager has not yet read.
    pub(super) events: [bool; MMS],
    /// What a toucher must see.
    pub(super) want_data: u8,
    pub(super) want_tag: u8,
}

/// A thread that uses guest memory; its pages in turn are in `touch::PLANS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Toucher {
    /// How many of its pages it has used.
    pub(super) used: u8,
    pub(super) pages: u8,
    pub(super) waiting: bool,
}

impl Toucher {
    pub(super) fn finished(self) -> bool {
        self.used == self.pages
    }
}

/// Where one of the pager's two threads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Worker {
    Idle,
    /// Has seen that the page is missing (mutant only).
    Claiming {
        page: usize,
        mm: usize,
    },
    Filling {
        page: usize,
        mm: usize,
        data: bool,
        tags: bool,
        ready: bool,
    },
    /// In KVM_ARM_MTE_COPY_TAGS, with the lock, waiting for the page itself (mutant only).
    InIoctl {
        page: usize,
        mm: usize,
    },
    Publishing {
        page: usize,
        mm: usize,
        only: Option<usize>,
    },
}

/// Who holds the lock that KVM holds over accesses to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    Free,
    Toucher,
    Pager(usize),
}

/// What has gone wrong, once and for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bad {
    pub(super) not_whole: bool,
    pub(super) overwritten: bool,
    pub(super) filled_unregistered: bool,
    pub(super) published_untagged: bool,
    pub(super) flag_taken: bool,
}

impl Bad {
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.not_whole, "P1 only whole pages are used"),
            (self.overwritten, "P2 no fill after publication"),
            (self.filled_unregistered, "P3 all registered before the first fill"),
            (self.published_untagged, "P4 tagged before published"),
            (self.flag_taken, "P7 no huge folio is split"),
        ];
        all.into_iter().filter_map(|(bad, name)| bad.then_some(name))
    }
}

/// The whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) pages: [Page; PAGES],
    pub(super) registered: [bool; MMS],
    pub(super) touchers: [Toucher; 3],
    pub(super) workers: [Worker; 2],
    pub(super) lock: Lock,
    pub(super) pager_gone: bool,
    pub(super) fd_closed: bool,
    pub(super) killed: bool,
    pub(super) pausing: bool,
    pub(super) split: bool,
    pub(super) bad: Bad,
}

impl State {
    pub(super) fn new() -> Self {
        let hole = Page {
            present: false,
            data: ZERO,
            tag: ZERO,
            tagged: false,
            fill: Fill::Missing,
            mapped: [false; MMS],
            events: [false; MMS],
            want_data: SAVED,
            want_tag: SAVED,
        };
        let precopied = Page { present: true, data: STALE, tag: STALE, tagged: true, ..hole };
        let toucher = |pages| Toucher { used: 0, pages, waiting: false };
        Self {
            pages: [hole, precopied],
            registered: [false; MMS],
            touchers: [toucher(2), toucher(2), toucher(1)],
            workers: [Worker::Idle; 2],
            lock: Lock::Free,
            pager_gone: false,
            fd_closed: false,
            killed: false,
            pausing: false,
            split: false,
            bad: Bad::default(),
        }
    }

    pub(super) fn all_published(&self) -> bool {
        self.pages.iter().all(|page| page.fill == Fill::Ready && page.mapped.iter().all(|mapped| *mapped))
    }
}

/// What happens from one state to the next.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the table in the module's documentation says what each stands for")]
pub enum Action {
    Register { mm: usize },
    TakeLock { by: &'static str },
    Touch { by: &'static str, page: usize },
    Fault { by: &'static str, page: usize },
    LeaveEvent { worker: usize, page: usize },
    SeeMissing { worker: usize, page: usize },
    Claim { worker: usize, page: usize },
    FillData { worker: usize, page: usize },
    FillTags { worker: usize, page: usize },
    UffdCopy { worker: usize, page: usize },
    EnterIoctl { worker: usize, page: usize },
    Ready { worker: usize, page: usize },
    Publish { worker: usize, page: usize, mm: usize },
    Split,
    PagerDies,
    Kill,
    RequestPause,
    StopPager,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORKER: [&str; 2] = ["fault worker", "background worker"];
        match *self {
            Self::Register { mm } => write!(f, "mm {mm} registers MISSING|MINOR"),
            Self::TakeLock { by } => write!(f, "{by} takes the lock"),
            Self::Touch { by, page } => write!(f, "{by} uses page {page} and writes it"),
            Self::Fault { by, page } => write!(f, "{by} faults on page {page} and waits"),
            Self::LeaveEvent { worker, page } => write!(f, "{}: page {page} is being filled", WORKER[worker]),
            Self::SeeMissing { worker, page } => write!(f, "{}: page {page} is missing", WORKER[worker]),
            Self::Claim { worker, page } => write!(f, "{}: claims page {page}", WORKER[worker]),
            Self::FillData { worker, page } => write!(f, "{}: writes data of page {page}", WORKER[worker]),
            Self::FillTags { worker, page } => write!(f, "{}: writes tags of page {page}", WORKER[worker]),
            Self::UffdCopy { worker, page } => write!(f, "{}: UFFDIO_COPY of page {page}", WORKER[worker]),
            Self::EnterIoctl { worker, page } => write!(f, "{}: COPY_TAGS of page {page}", WORKER[worker]),
            Self::Ready { worker, page } => write!(f, "{}: page {page} is ready", WORKER[worker]),
            Self::Publish { worker, page, mm } => {
                write!(f, "{}: UFFDIO_CONTINUE of page {page} in mm {mm}", WORKER[worker])
            }
            Self::Split => write!(f, "kernel splits the huge folio of pages 0 and 1"),
            Self::PagerDies => write!(f, "the pager dies"),
            Self::Kill => write!(f, "control kills the VM"),
            Self::RequestPause => write!(f, "pause is requested"),
            Self::StopPager => write!(f, "the pager stops"),
        }
    }
}
