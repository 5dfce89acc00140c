//! Which operations meet.

use super::Variant;
use super::machine::{Block, Op, THREADS};
use super::programs::{
    Buffer, after, copy_and_map, from_guest, in_order, look, swap_in, sync_and_map, tag_and_look, to_guest,
};

/// Threads that meet over two pages.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// Each thread's name and program; at most four.
    pub threads: Vec<(&'static str, Vec<Block>)>,
    /// The pages' tags are in swap.
    pub swapped_out: bool,
}

fn scenario(name: &'static str, threads: Vec<(&'static str, Vec<Block>)>) -> Scenario {
    assert!(threads.len() <= THREADS, "{name} has too many threads");
    Scenario { name, threads, swapped_out: false }
}

fn then(mut first: Vec<Block>, second: Vec<Block>) -> Vec<Block> {
    first.extend(second);
    first
}

/// All scenarios of a variant. Every variant runs all of them, so that the real protocol is tried in each.
#[must_use]
pub fn scenarios(variant: Variant) -> Vec<Scenario> {
    let map = |page, mapping| sync_and_map(variant, page, mapping);
    let mut all = vec![
        scenario(
            "two mappers and their guests",
            vec![
                ("stage-2 fault", map(0, 0)),
                ("PROT_MTE fault", map(0, 1)),
                ("guest", tag_and_look(0, 0)),
                ("EL0", look(0, 1)),
            ],
        ),
        scenario(
            "TO_GUEST against a fault, a guest and FROM_GUEST",
            vec![
                ("stage-2 fault", map(0, 0)),
                ("TO_GUEST", to_guest(variant, 0, Buffer::Resident)),
                ("guest", tag_and_look(0, 0)),
                ("FROM_GUEST", from_guest(variant, 0)),
            ],
        ),
        scenario(
            "FROM_GUEST against two faults and a guest",
            vec![
                ("stage-2 fault", map(0, 0)),
                ("PROT_MTE fault", map(0, 1)),
                ("guest", tag_and_look(0, 0)),
                ("FROM_GUEST", from_guest(variant, 0)),
            ],
        ),
        scenario(
            "a copy while the source is initialised",
            vec![
                ("stage-2 fault", map(0, 0)),
                ("copy on write", copy_and_map(variant, 0, 1, 1)),
                ("guest", look(1, 1)),
            ],
        ),
        scenario(
            "a copy of a tagged page",
            vec![
                ("first guest", then(map(0, 0), tag_and_look(0, 0))),
                ("copy on write", after(0b01, copy_and_map(variant, 0, 1, 1))),
                ("second guest", look(1, 1)),
            ],
        ),
        swap(variant),
        scenario(
            "a page is freed and has a new owner",
            vec![
                ("first owner", then(map(0, 0), tag_and_look(0, 0))),
                ("free", after(0b01, vec![in_order(&[free(variant)])])),
                ("stage-2 fault", after(0b10, map(0, 1))),
                ("new owner", look(0, 1)),
            ],
        ),
    ];
    all.extend(splits(variant));
    all.extend(buffers(variant));
    all
}

fn free(variant: Variant) -> Op {
    Op::Free { page: 0, keep_flags: variant == Variant::FreeKeepsFlags }
}

fn swap(variant: Variant) -> Scenario {
    // The page is locked until it is read; nobody maps it before.
    let wait = if variant == Variant::SwapInAfterMap { 0 } else { 0b001 };
    let fault = |mapping| after(wait, sync_and_map(variant, 0, mapping));
    let mut swapped = scenario(
        "swap-in and two faults",
        vec![
            ("swap-in", swap_in(0)),
            ("stage-2 fault", fault(0)),
            ("PROT_MTE fault", fault(1)),
            ("guest", tag_and_look(0, 0)),
        ],
    );
    swapped.swapped_out = true;
    swapped
}

/// A folio of two pages is split, then its tail is used.
fn splits(variant: Variant) -> Vec<Scenario> {
    let map = |page, mapping| sync_and_map(variant, page, mapping);
    let split = |name, before| {
        let refault = after(0b10, map(1, 1));
        scenario(
            name,
            vec![
                ("before", before),
                ("split", after(0b01, vec![in_order(&[Op::Split])])),
                ("refault of the tail", refault),
                ("guest", look(1, 1)),
            ],
        )
    };
    let whole = then(then(map(0, 0), map(1, 0)), tag_and_look(1, 0));
    let mut all = vec![split("a folio initialised as a whole is split", whole)];
    if variant == Variant::MixedSplit {
        all.push(split("only the tail was initialised", then(map(1, 0), tag_and_look(1, 0))));
        all.push(split("only the head was initialised", map(0, 0)));
    }
    all
}

/// TO_GUEST with a buffer that faults: by our rules this never happens.
fn buffers(variant: Variant) -> Vec<Scenario> {
    let reader = ("PROT_MTE fault", sync_and_map(variant, 0, 1));
    let alias = || {
        let writer = ("TO_GUEST", to_guest(variant, 0, Buffer::Alias));
        scenario("the buffer is an alias of the page", vec![writer, reader.clone()])
    };
    let pager = || {
        let writer = ("TO_GUEST", to_guest(variant, 0, Buffer::Pager(1)));
        scenario("the buffer waits for a pager that reads the page", vec![writer, reader.clone()])
    };
    match variant {
        Variant::StagedBuffer => vec![alias(), pager()],
        Variant::BufferIsAlias => vec![alias()],
        Variant::BufferNeedsPager => vec![pager()],
        Variant::BufferFaults => vec![scenario(
            "the buffer is bad and the page is in use",
            vec![
                ("stage-2 fault", sync_and_map(variant, 0, 0)),
                ("TO_GUEST", to_guest(variant, 0, Buffer::Bad)),
                ("guest", tag_and_look(0, 0)),
            ],
        )],
        _ => Vec::new(),
    }
}
