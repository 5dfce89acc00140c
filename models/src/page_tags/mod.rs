//! How the kernel initialises the tags of a page: PG_mte_lock and PG_mte_tagged (Linux 6.2 and later).
//!
//! ```text
//!   Fresh (lock 0, tagged 0, tags stale) ──test_and_set lock──► Init (lock 1, tagged 0) ──wmb; set tagged──► Tagged (1, 1)
//!     ▲                                                          whoever loses spins until tagged              │
//!     └──────────────────────────────────────────────── free ───────────────────────────────────────────────────┘
//! ```
//!
//! | program | stands for |
//! |---|---|
//! | `sync` + `Map` | `sanitise_mte_tags` then the stage-2 entry (release); or `mte_sync_tags` in `set_ptes`, then the entry |
//! | `to_guest` | `kvm_vm_ioctl_mte_copy_tags` TO_GUEST: lock (or wait), copy from the user's buffer, set tagged |
//! | `from_guest` | the same, FROM_GUEST: tagged? read : zeros |
//! | `copy` | `copy_highpage`: copy-on-write and page migration |
//! | `swap_in` | `mte_restore_tags` at swap-in, before the page is mapped |
//! | `Free` | the page allocator clears PG_arch_2 and PG_arch_3 (`PAGE_FLAGS_CHECK_AT_PREP`); the tags stay in memory |
//! | `Split` | `__split_huge_page_tail`: the head's flags go to every tail; the folio is unmapped and refaulted |
//! | `Store`, `Load` | STG and LDG by a guest, or at EL0 through PROT_MTE, once its entry is there |
//!
//! # Weak memory
//! A thread is a list of blocks. Within a block the operations run in *any* order that their `after` masks allow, each
//! atomically on one memory; blocks follow each other (TAS with full order, acquire loops and control
//! dependencies to stores end a block). That is Arm's multi-copy-atomic memory: what `smp_wmb`, `smp_rmb`,
//! release and acquire do is put a bit into a mask, and a mutant takes it out.
//!
//! Invariants: **I1** no mapped observer reads stale tags; **I2** once tagged, tags change by explicit stores only; **I3**
//! FROM_GUEST gives the current tags, or zeros if there were none; **I4** (liveness) every initialisation ends.

pub mod machine;
mod programs;
mod scenarios;

pub use scenarios::{Scenario, scenarios};

/// The kernel's protocol, used by our rules, or with one thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Linux 6.12, with buffers that are resident and no huge folios (or only wholly initialised ones).
    Real,
    /// As real, with a proposed change: TO_GUEST reads its buffer before it takes the lock. The buffer may fault.
    StagedBuffer,
    /// Linux 6.1: no lock; test the flag, clear, set the flag.
    NoLock,
    /// The flag is set, then the tags are cleared.
    FlagBeforeClear,
    /// `set_page_mte_tagged` without its write barrier.
    NoWriteBarrier,
    /// `page_mte_tagged` without its read barrier.
    NoReadBarrier,
    /// TO_GUEST's buffer is a non-resident PROT_MTE alias of the page whose tags are written.
    BufferIsAlias,
    /// TO_GUEST's buffer is missing in a userfaultfd whose pager maps the page with PROT_MTE.
    BufferNeedsPager,
    /// TO_GUEST's buffer faults half way (EFAULT), on a page that is in use.
    BufferFaults,
    /// A huge folio of which only some pages were initialised is split.
    MixedSplit,
    /// Freeing a page leaves its flags.
    FreeKeepsFlags,
    /// Tags come back from swap after the page was mapped.
    SwapInAfterMap,
}

impl Variant {
    /// Every mutant.
    pub const MUTANTS: [Self; 10] = [
        Self::NoLock,
        Self::FlagBeforeClear,
        Self::NoWriteBarrier,
        Self::NoReadBarrier,
        Self::BufferIsAlias,
        Self::BufferNeedsPager,
        Self::BufferFaults,
        Self::MixedSplit,
        Self::FreeKeepsFlags,
        Self::SwapInAfterMap,
    ];
}
