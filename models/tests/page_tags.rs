//! The kernel's protocol holds by our rules, and breaks as it must without each of its parts or of our rules.

use std::collections::BTreeSet;

use granule_models::checker::explore;
use granule_models::page_tags::{Variant, scenarios};

const I1: &str = "I1 no stale tag is seen";
const I2: &str = "I2 tags change by stores only";
const I3: &str = "I3 FROM_GUEST is current";
const I4: &str = "I4 every initialisation ends";

/// Runs every scenario; gives the states explored and what broke in any of them.
fn run(variant: Variant) -> (usize, Vec<&'static str>) {
    let (mut states, mut broken) = (0, BTreeSet::new());
    for scenario in scenarios(variant) {
        let report = explore(&scenario);
        println!("{variant:?}, {}: {report}", scenario.name);
        states += report.states;
        broken.extend(report.broken_names());
    }
    (states, broken.into_iter().collect())
}

#[test]
fn the_protocol_keeps_tags_by_our_rules() {
    let (states, broken) = run(Variant::Real);
    assert_eq!(broken, [""; 0]);
    assert!(states > 2_000, "explored only {states} states");
}

#[test]
fn a_staged_buffer_may_fault() {
    assert_eq!(run(Variant::StagedBuffer).1, [""; 0]);
}

#[test]
fn every_mutant_breaks_its_invariants() {
    for variant in Variant::MUTANTS {
        let expected: &[&str] = match variant {
            Variant::Real | Variant::StagedBuffer => unreachable!("not mutants"),
            Variant::NoLock => &[I2, I3],
            Variant::FlagBeforeClear => &[I1, I2, I3],
            Variant::NoWriteBarrier => &[I1, I2, I3],
            Variant::NoReadBarrier => &[I1, I3],
            Variant::BufferIsAlias | Variant::BufferNeedsPager => &[I4],
            Variant::BufferFaults => &[I2],
            Variant::MixedSplit => &[I1, I2],
            Variant::FreeKeepsFlags => &[I1],
            Variant::SwapInAfterMap => &[I2],
        };
        assert_eq!(run(variant).1, expected, "{variant:?}");
    }
}
