//! The kernel's operations as programs for the model's threads.

use super::Variant;
use super::machine::{Block, GRANULES, Next, Op, Tag};

/// What comes after nothing, after the first operation, after the first two, …
const FREE: u8 = 0;

/// Where TO_GUEST's buffer makes it wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffer {
    /// It is resident.
    Resident,
    /// The fault needs the page itself mapped with PROT_MTE, by this thread.
    Alias,
    /// The fault needs another thread to end (its number).
    Pager(u8),
    /// The second half cannot be read: EFAULT.
    Bad,
}

/// A block of operations in program order.
pub(super) fn in_order(ops: &[Op]) -> Block {
    let ops = ops.iter().enumerate().map(|(index, op)| (*op, (1u8 << index) - 1)).collect();
    Block { ops, next: Next::Block }
}

/// Initialises the tags of a page or waits until they are, then maps it.
pub(super) fn sync_and_map(variant: Variant, page: usize, mapping: usize) -> Vec<Block> {
    let clear = |granule| Op::Put(page, granule, Tag::Zero);
    let (set, map) = (Op::SetTagged(page, None), Op::Map(page, mapping));
    let init = match variant {
        // The entry is stored with release: after everything.
        Variant::FlagBeforeClear => vec![(set, FREE), (clear(0), 0b001), (clear(1), 0b001), (map, 0b111)],
        Variant::NoWriteBarrier => vec![(clear(0), FREE), (clear(1), FREE), (set, FREE), (map, 0b111)],
        _ => vec![(clear(0), FREE), (clear(1), FREE), (set, 0b011), (map, 0b111)],
    };
    let init = Block { ops: init, next: Next::Skip(2) };
    if variant == Variant::NoLock {
        let test = Block { ops: vec![(Op::LoadFlag(page), FREE)], next: Next::IfFlagged(2, 1) };
        return vec![test, init, in_order(&[map])];
    }
    let lock = Block { ops: vec![(Op::Lock(page), FREE)], next: Next::IfLocked(1, 2) };
    vec![lock, init, in_order(&[Op::AwaitTagged(page), map])]
}

/// KVM_ARM_MTE_COPY_TAGS, TO_GUEST, of one page.
pub(super) fn to_guest(variant: Variant, page: usize, buffer: Buffer) -> Vec<Block> {
    let fault = match buffer {
        Buffer::Resident | Buffer::Bad => Vec::new(),
        Buffer::Alias => sync_and_map(variant, page, 1),
        Buffer::Pager(thread) => vec![in_order(&[Op::Await(1 << thread)])],
    };
    let store = if buffer == Buffer::Bad {
        // mte_clear_page_tags: "uaccess failed, don't leave stale tags"
        let clear = |granule| Op::Put(page, granule, Tag::Zero);
        in_order(&[Op::Put(page, 0, Tag::Buffer), clear(0), clear(1), Op::SetTagged(page, None)])
    } else {
        let put = |granule| (Op::Put(page, granule, Tag::Buffer), FREE);
        Block { ops: vec![put(0), put(1), (Op::SetTagged(page, Some(Tag::Buffer)), 0b11)], next: Next::Block }
    };
    let lock = Block { ops: vec![(Op::Lock(page), FREE)], next: Next::IfLocked(2, 1) };
    let claim = [lock, in_order(&[Op::AwaitTagged(page)])];
    if variant == Variant::StagedBuffer {
        fault.into_iter().chain(claim).chain([store]).collect()
    } else {
        claim.into_iter().chain(fault).chain([store]).collect()
    }
}

/// KVM_ARM_MTE_COPY_TAGS, FROM_GUEST, of one page.
pub(super) fn from_guest(variant: Variant, page: usize) -> Vec<Block> {
    let after_flag = if variant == Variant::NoReadBarrier { 0b0001 } else { 0b0011 };
    let ops = vec![
        (Op::BeginFrom(page), FREE),
        (Op::LoadFlag(page), 0b0001),
        (Op::LoadTag(page, 0), after_flag),
        (Op::LoadTag(page, 1), after_flag),
        (Op::ReturnFrom(page), 0b1111),
    ];
    vec![Block { ops, next: Next::Block }]
}

/// Copies a page's tags to a fresh page, then maps that: copy-on-write, or migration of a page.
pub(super) fn copy_and_map(variant: Variant, from: usize, to: usize, mapping: usize) -> Vec<Block> {
    let after_flag = if variant == Variant::NoReadBarrier { 0b0001 } else { 0b0011 };
    let look = Block {
        ops: vec![
            (Op::BeginCopy { from, to }, FREE),
            (Op::LoadFlag(from), 0b0001),
            (Op::LoadTag(from, 0), after_flag),
            (Op::LoadTag(from, 1), after_flag),
        ],
        next: Next::IfFlagged(1, 3),
    };
    let put = |granule| (Op::PutLoaded(to, granule), FREE);
    let store = Block { ops: vec![put(0), put(1), (Op::SetTagged(to, None), 0b11)], next: Next::Block };
    let mut program = vec![look, in_order(&[Op::Lock(to)]), store];
    program.extend(sync_and_map(variant, to, mapping));
    program
}

/// Gives a page that was swapped out its tags back.
pub(super) fn swap_in(page: usize) -> Vec<Block> {
    let put = |granule| (Op::Put(page, granule, Tag::Swapped), FREE);
    vec![
        Block { ops: vec![(Op::Lock(page), FREE)], next: Next::IfLocked(1, 2) },
        Block { ops: vec![put(0), put(1), (Op::SetTagged(page, None), 0b11)], next: Next::Block },
    ]
}

/// A guest that looks at all tags of a page.
pub(super) fn look(page: usize, mapping: usize) -> Vec<Block> {
    let loads = (0..GRANULES).map(|granule| (Op::Load(page, mapping, granule), FREE)).collect();
    vec![Block { ops: loads, next: Next::Block }]
}

/// A guest that tags the first granule of a page, then looks.
pub(super) fn tag_and_look(page: usize, mapping: usize) -> Vec<Block> {
    let mut program = vec![in_order(&[Op::Store(page, mapping, 0)])];
    program.extend(look(page, mapping));
    program
}

/// The program after the threads in `mask` have ended.
pub(super) fn after(mask: u8, program: Vec<Block>) -> Vec<Block> {
    [in_order(&[Op::Await(mask)])].into_iter().chain(program).collect()
}
