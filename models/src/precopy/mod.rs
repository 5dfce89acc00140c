//! Live snapshot and pre-copy migration: what is copied while the guest runs, and what the last round must catch.
//!
//! ```text
//!   mover   ┌─► Harvest: ClearLog(p)… ─► FlushTlb ─► SwapDeviceLog(p)… ─► Copy: ReadData(p) ─► ReadTags(p) ─► Send(p) ─┐
//!           │                                                                                    for each p harvested  │
//!           ├───────────────────────────────── another round ◄─────────────────────────────────────────────────────────┤
//!           └── last round ◄── SaveTables ◄── JoinDevice ◄── PauseVcpus ◄──────────────────────── enough ──────────────┘
//!                    └─► Run: destination = source, or the snapshot is wrong
//!
//!   guest   Store(p), StoreTag(p):  cached? write : writable? cache, write : fault: log, make writable, cache, write
//!   device  Write(p) ─► Log(p)      (log after writing, with release order)
//! ```
//!
//! | action | stands for |
//! |---|---|
//! | guest store / tag store | STR, STG in the guest; the fault is `user_mem_abort` → `mark_page_dirty_in_slot` (STG and STR alike) |
//! | `ClearLog` | `kvm_get_dirty_log_protect` (or `KVM_CLEAR_DIRTY_LOG`): bit taken and page write-protected under the MMU lock |
//! | `FlushTlb` | `kvm_flush_remote_tlbs_memslot`, after which KVM_GET_DIRTY_LOG returns, and the machine puts what it says into the log that devices and mover share |
//! | device write, log | a device process or the machine itself writing guest memory, then setting the bit in the shared log |
//! | `SwapDeviceLog` | mover: one atomic swap with zero of the log's word, acquire |
//! | `ReadData`, `ReadTags`, `Send` | mover: copies the page, reads its tags (LDG), encodes a chunk; not atomic together |
//! | `PauseVcpus`, `JoinDevice` | machine: vCPUs out of KVM_RUN; control: device processes answer that they are quiet |
//! | `SaveTables` | `KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES`, `KVM_DEV_ARM_ITS_SAVE_TABLES`: KVM writes guest memory (and logs it) |
//!
//! Invariant **A1**: when the destination runs, each page there has the data and the tags of the source.
//! Liveness **A2**: from every state the destination can still be made to run.
//!
//! Weak memory: the device's two steps, and each step of the mover, are single actions that interleave freely. On
//! Arm (multi-copy atomic) what a missing release or acquire adds is that two steps of one side swap: these are the
//! mutants [`Variant::DeviceLogsFirst`] and [`Variant::ReadsBeforeHarvest`].

mod state;

pub use state::{Action, Page, State};

use crate::checker::Model;
use state::{Device, Mover, PAGES};

/// The page that the interrupt controller's tables are in.
const TABLES: usize = 1;
/// What the interrupt controller writes there.
const TABLES_DATA: u8 = 2;

/// The protocol, or the protocol with one rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol that the mover follows.
    Real,
    /// Reads data and tags, then takes the dirty bits.
    ReadsBeforeHarvest,
    /// Reads the tags of all pages in one go before the harvest, the data after it.
    StaleTagBuffer,
    /// The kernel returns the log before the TLB is flushed and never flushes it.
    NoTlbFlush,
    /// The device sets its log bit before it writes.
    DeviceLogsFirst,
    /// The device (or the machine itself) writes and does not log.
    DeviceDoesNotLog,
    /// The mover takes KVM's log and not the devices'.
    DeviceLogIgnored,
    /// The mover reads the device's log and clears it in two steps.
    LogReadThenCleared,
    /// The mover does not wait until the device is quiet before the last round.
    DeviceNotJoined,
    /// The interrupt controller's tables are written after the last round.
    TablesAfterHarvest,
    /// A page whose data is as it was sent last is skipped, whatever its tags.
    UnchangedDataSkipsTags,
    /// A page of zeros is sent without its tags.
    ZeroDataHasNoTags,
    /// Nothing is sent for tags that are all zero, and the destination keeps what it had.
    ZeroTagsNotSent,
    /// Nothing is sent for data that is all zero, and the destination keeps what it had.
    ZeroDataNotSent,
    /// Guest tag stores are not logged (what would happen if KVM logged STR but not STG).
    TagStoresNotLogged,
}

impl Variant {
    /// Every mutant.
    pub const MUTANTS: [Self; 14] = [
        Self::ReadsBeforeHarvest,
        Self::StaleTagBuffer,
        Self::NoTlbFlush,
        Self::DeviceLogsFirst,
        Self::DeviceDoesNotLog,
        Self::DeviceLogIgnored,
        Self::LogReadThenCleared,
        Self::DeviceNotJoined,
        Self::TablesAfterHarvest,
        Self::UnchangedDataSkipsTags,
        Self::ZeroDataHasNoTags,
        Self::ZeroTagsNotSent,
        Self::ZeroDataNotSent,
        Self::TagStoresNotLogged,
    ];
}

/// How often each party may act: what bounds the exploration.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Data stores by the guest.
    pub guest_stores: u8,
    /// Tag stores by the guest.
    pub guest_tag_stores: u8,
    /// Writes by the device.
    pub device_writes: u8,
    /// Rounds before the last one; the first sends everything.
    pub rounds: u8,
}

/// The model of one variant within bounds.
#[derive(Clone, Copy, Debug)]
pub struct Precopy {
    /// What is modelled.
    pub variant: Variant,
    /// How far.
    pub bounds: Bounds,
}

impl Model for Precopy {
    type State = State;
    type Action = Action;
    const LIVENESS: &'static str = "A2 the destination can always be made to run";

    fn initial(&self) -> State {
        State::new(self.bounds)
    }

    fn actions(&self, state: &State, out: &mut Vec<(Action, State)>) {
        self.guest(state, out);
        self.device(state, out);
        self.mover(state, out);
    }

    fn broken(&self, state: &State, out: &mut Vec<&'static str>) {
        let same = |page: &Page| (page.data, page.tag) == (page.sent_data, page.sent_tag);
        if state.mover == Mover::Ran && !state.pages.iter().all(same) {
            out.push("A1 destination equals source");
        }
    }

    fn done(&self, state: &State) -> bool {
        state.mover == Mover::Ran
    }
}

impl Precopy {
    fn guest(&self, state: &State, out: &mut Vec<(Action, State)>) {
        if state.paused {
            return;
        }
        for page in 0..PAGES {
            for value in 0..=2 {
                if state.left.guest_stores > 0 && state.pages[page].data != value {
                    let mut next = *state;
                    next.left.guest_stores -= 1;
                    next.pages[page].fault_in_for_write(true);
                    next.pages[page].data = value;
                    out.push((Action::GuestStore { page, value }, next));
                }
            }
            for value in 0..=1 {
                if state.left.guest_tag_stores > 0 && state.pages[page].tag != value {
                    let mut next = *state;
                    next.left.guest_tag_stores -= 1;
                    next.pages[page].fault_in_for_write(self.variant != Variant::TagStoresNotLogged);
                    next.pages[page].tag = value;
                    out.push((Action::GuestTagStore { page, value }, next));
                }
            }
        }
    }

    /// The device writes page 0 only: a second page would double the states and add no new order.
    fn device(&self, state: &State, out: &mut Vec<(Action, State)>) {
        let logs_first = self.variant == Variant::DeviceLogsFirst;
        match state.device {
            Device::Quiet => {}
            Device::Ready if state.left.device_writes == 0 => {}
            Device::Ready => {
                let mut next = *state;
                next.left.device_writes -= 1;
                next.device = Device::HalfDone;
                out.push(Self::device_step(logs_first, self.variant, next));
            }
            Device::HalfDone => {
                let mut next = *state;
                next.device = Device::Ready;
                out.push(Self::device_step(!logs_first, self.variant, next));
            }
        }
    }

    fn device_step(log: bool, variant: Variant, mut next: State) -> (Action, State) {
        if log {
            next.pages[0].device_log |= variant != Variant::DeviceDoesNotLog;
            (Action::DeviceLog, next)
        } else {
            next.pages[0].data = (next.pages[0].data + 1) % 3;
            (Action::DeviceWrite, next)
        }
    }
}
