//! On-demand placement holds, also when the pager dies or the VM pauses, and each rule of it is needed.

use granule_models::checker::{Report, explore};
use granule_models::placement::{Placement, Surroundings, Variant};

const P1: &str = "P1 only whole pages are used";
const P2: &str = "P2 no fill after publication";
const P3: &str = "P3 all registered before the first fill";
const P4: &str = "P4 tagged before published";
const P5: &str = "P5 every waiter is woken";
const P6: &str = "P6 userfaultfd outlives every toucher";
const P7: &str = "P7 no huge folio is split";

fn run(variant: Variant, surroundings: Surroundings) -> Report {
    let report = explore(&Placement { variant, surroundings });
    println!("{variant:?}, {surroundings:?}: {report}");
    report
}

#[test]
fn the_protocol_shows_only_whole_pages_and_wakes_everybody() {
    for surroundings in [Surroundings::Calm, Surroundings::PagerMayDie, Surroundings::Pause] {
        let report = run(Variant::Real, surroundings);
        assert!(report.broken.is_empty(), "{report}");
        assert!(report.states > 3_000, "explored only {} states", report.states);
    }
}

#[test]
fn every_mutant_breaks_its_invariants() {
    for (variant, surroundings) in Variant::MUTANTS {
        let expected: &[&str] = match variant {
            Variant::Real => unreachable!("not a mutant"),
            Variant::CopyThenTags | Variant::ContinueThenTags => &[P1, P2, P4],
            Variant::TagsByIoctl | Variant::SharesLock => &[P5],
            Variant::PublishesInOneMm | Variant::PauseStopsPager => &[P5],
            Variant::ClaimNotAtomic => &[P2],
            Variant::ReadyTooEarly => &[P1, P2, P4],
            Variant::DeviceNotRegistered => &[P1, P2, P3],
            Variant::FillsBeforeRegistration => &[P3],
            Variant::MissingOnly => &[P1, P2],
            Variant::DeathClosesFd => &[P1, P6],
            Variant::HugeFolios => &[P1, P4, P7],
        };
        assert_eq!(run(variant, surroundings).broken_names(), expected, "{variant:?}");
    }
}
