//! The state of the pre-copy model and the mover's half of its actions.

use std::fmt;

use super::{Bounds, Precopy, TABLES, TABLES_DATA, Variant};

/// Pages in the model. Two: one that a device writes, one that the interrupt controller writes.
pub(super) const PAGES: usize = 2;

/// One page of guest memory, its tracking, and its copy at the destination. A value of 0 is "all zero".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// What the page holds at the source.
    pub data: u8,
    /// What its tags are at the source.
    pub tag: u8,
    /// What the destination has been given.
    pub sent_data: u8,
    /// What tags the destination has been given.
    pub sent_tag: u8,
    /// KVM's dirty bit.
    dirty: bool,
    /// Whether the stage-2 entry allows writing.
    writable: bool,
    /// Whether a TLB holds a writable copy of that entry.
    cached: bool,
    /// The bit that devices set.
    pub(super) device_log: bool,
    /// Whether this round's harvest named the page.
    harvested: bool,
    /// Data and tags read before the harvest (mutants only).
    early: (u8, u8),
}

impl Page {
    /// What a guest store goes through before it writes.
    pub(super) fn fault_in_for_write(&mut self, logged: bool) {
        if !self.cached {
            if !self.writable {
                self.dirty |= logged;
                // A store that is not logged must not open the page for others either.
                self.writable = logged;
            }
            self.cached = self.writable;
        }
    }
}

/// Where the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Device {
    /// Between two writes.
    Ready,
    /// Written and not logged (or, in the mutant, logged and not written).
    HalfDone,
    /// Told to stop.
    Quiet,
}

/// Where the mover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mover {
    ReadEarly,
    ClearLog(usize),
    FlushTlb,
    SwapDeviceLog(usize),
    /// Between the two halves of a swap that is not atomic (mutant only); holds the bit that was read.
    ClearDeviceLog(usize, bool),
    ReadData(usize),
    ReadTags(usize, u8),
    Send(usize, u8, u8),
    RoundDone,
    PauseVcpus,
    JoinDevice,
    SaveTables,
    Run,
    Ran,
}

/// The whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Guest memory.
    pub pages: [Page; PAGES],
    pub(super) device: Device,
    pub(super) mover: Mover,
    /// The vCPUs are out of the guest.
    pub(super) paused: bool,
    pub(super) tables_saved: bool,
    pub(super) left: Left,
}

/// What each party may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) guest_stores: u8,
    pub(super) guest_tag_stores: u8,
    pub(super) device_writes: u8,
    pub(super) rounds: u8,
}

/// What happens from one state to the next.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the table in the module's documentation says what each stands for")]
pub enum Action {
    GuestStore { page: usize, value: u8 },
    GuestTagStore { page: usize, value: u8 },
    DeviceWrite,
    DeviceLog,
    ReadEarly,
    ClearLog(usize),
    FlushTlb,
    SwapDeviceLog(usize),
    ReadDeviceLog(usize),
    ClearDeviceLog(usize),
    ReadData(usize),
    ReadTags(usize),
    Send(usize),
    SkipPage(usize),
    AnotherRound,
    Enough,
    PauseVcpus,
    JoinDevice,
    SaveTables,
    Run,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestStore { page, value } => write!(f, "guest stores data {value} to page {page}"),
            Self::GuestTagStore { page, value } => write!(f, "guest stores tag {value} to page {page}"),
            Self::DeviceWrite => write!(f, "device writes page 0"),
            Self::DeviceLog => write!(f, "device logs page 0"),
            other => write!(f, "mover: {other:?}"),
        }
    }
}

impl State {
    /// Logging has just been switched on: all pages are write-protected and the first round sends all.
    pub(super) fn new(bounds: Bounds) -> Self {
        let page = Page {
            data: 1,
            tag: 1,
            sent_data: 0,
            sent_tag: 0,
            dirty: true,
            writable: false,
            cached: false,
            device_log: false,
            harvested: false,
            early: (0, 0),
        };
        Self {
            pages: [page; PAGES],
            device: Device::Ready,
            mover: Mover::ReadEarly,
            paused: false,
            tables_saved: false,
            left: Left {
                guest_stores: bounds.guest_stores,
                guest_tag_stores: bounds.guest_tag_stores,
                device_writes: bounds.device_writes,
                rounds: bounds.rounds,
            },
        }
    }

    fn last_round(&self) -> bool {
        self.paused
    }
}

impl Precopy {
    pub(super) fn mover(&self, state: &State, out: &mut Vec<(Action, State)>) {
        let mut next = *state;
        let pages = &mut next.pages;
        let (action, to) = match state.mover {
            Mover::ReadEarly => {
                if matches!(self.variant, Variant::ReadsBeforeHarvest | Variant::StaleTagBuffer) {
                    pages.iter_mut().for_each(|page| page.early = (page.data, page.tag));
                    (Action::ReadEarly, Mover::ClearLog(0))
                } else {
                    // No step of the real protocol: goes on at once.
                    next.mover = Mover::ClearLog(0);
                    return self.mover(&next, out);
                }
            }
            Mover::ClearLog(page) => {
                pages[page].harvested = std::mem::take(&mut pages[page].dirty);
                pages[page].writable = false;
                let to = if page + 1 < PAGES { Mover::ClearLog(page + 1) } else { Mover::FlushTlb };
                (Action::ClearLog(page), to)
            }
            Mover::FlushTlb => {
                if self.variant != Variant::NoTlbFlush {
                    pages.iter_mut().for_each(|page| page.cached = false);
                }
                (Action::FlushTlb, Mover::SwapDeviceLog(0))
            }
            Mover::SwapDeviceLog(page) if self.variant == Variant::LogReadThenCleared => {
                (Action::ReadDeviceLog(page), Mover::ClearDeviceLog(page, pages[page].device_log))
            }
            Mover::SwapDeviceLog(page) if self.variant == Variant::DeviceLogIgnored => {
                next.mover = after_swap(page);
                return self.mover(&next, out);
            }
            Mover::SwapDeviceLog(page) => {
                pages[page].harvested |= std::mem::take(&mut pages[page].device_log);
                (Action::SwapDeviceLog(page), after_swap(page))
            }
            Mover::ClearDeviceLog(page, seen) => {
                pages[page].harvested |= seen;
                pages[page].device_log = false;
                (Action::ClearDeviceLog(page), after_swap(page))
            }
            Mover::ReadData(page) if !pages[page].harvested => (Action::SkipPage(page), after_copy(page)),
            Mover::ReadData(page) => {
                let early = self.variant == Variant::ReadsBeforeHarvest;
                let data = if early { pages[page].early.0 } else { pages[page].data };
                (Action::ReadData(page), Mover::ReadTags(page, data))
            }
            Mover::ReadTags(page, data) => {
                let early = matches!(self.variant, Variant::ReadsBeforeHarvest | Variant::StaleTagBuffer);
                let tag = if early { pages[page].early.1 } else { pages[page].tag };
                (Action::ReadTags(page), Mover::Send(page, data, tag))
            }
            Mover::Send(page, data, tag) => {
                self.send(&mut pages[page], data, tag);
                pages[page].harvested = false;
                (Action::Send(page), after_copy(page))
            }
            Mover::RoundDone if state.last_round() => {
                let tables_first = state.tables_saved;
                let to = if tables_first { Mover::Run } else { Mover::SaveTables };
                next.mover = to;
                return self.mover(&next, out);
            }
            Mover::RoundDone => {
                if state.left.rounds > 0 {
                    let mut again = next;
                    again.left.rounds -= 1;
                    again.mover = Mover::ReadEarly;
                    out.push((Action::AnotherRound, again));
                }
                (Action::Enough, Mover::PauseVcpus)
            }
            Mover::PauseVcpus => {
                next.paused = true;
                (Action::PauseVcpus, Mover::JoinDevice)
            }
            Mover::JoinDevice => {
                let joined = self.variant != Variant::DeviceNotJoined;
                if joined && state.device == Device::HalfDone {
                    return;
                }
                if joined {
                    next.device = Device::Quiet;
                }
                let late = self.variant == Variant::TablesAfterHarvest;
                (Action::JoinDevice, if late { Mover::ReadEarly } else { Mover::SaveTables })
            }
            Mover::SaveTables => {
                next.tables_saved = true;
                pages[TABLES].data = TABLES_DATA;
                pages[TABLES].dirty = true;
                let late = self.variant == Variant::TablesAfterHarvest;
                (Action::SaveTables, if late { Mover::Run } else { Mover::ReadEarly })
            }
            Mover::Run => (Action::Run, Mover::Ran),
            Mover::Ran => return,
        };
        next.mover = to;
        out.push((action, next));
    }

    /// What one chunk does at the destination. Data and tags are left out separately.
    fn send(&self, page: &mut Page, data: u8, tag: u8) {
        let (skip_data, skip_tag) = match self.variant {
            Variant::UnchangedDataSkipsTags => (false, data == page.sent_data && data != 0),
            Variant::ZeroDataHasNoTags => (false, data == 0),
            Variant::ZeroTagsNotSent => (false, tag == 0),
            Variant::ZeroDataNotSent => (data == 0, false),
            _ => (false, false),
        };
        if !skip_data {
            page.sent_data = data;
        }
        if !skip_tag {
            page.sent_tag = tag;
        }
    }
}

fn after_swap(page: usize) -> Mover {
    if page + 1 < PAGES { Mover::SwapDeviceLog(page + 1) } else { Mover::ReadData(0) }
}

fn after_copy(page: usize) -> Mover {
    if page + 1 < PAGES { Mover::ReadData(page + 1) } else { Mover::RoundDone }
}
