//! The pre-copy protocol holds, and each rule of it is needed.

use granule_models::checker::explore;
use granule_models::precopy::{Bounds, Precopy, Variant};

/// Enough for every mutant, with room to spare; the real protocol is explored a little further.
const SMALL: Bounds = Bounds { guest_stores: 1, guest_tag_stores: 1, device_writes: 1, rounds: 1 };

#[test]
fn the_protocol_copies_all_data_and_tags() {
    let more = [
        SMALL,
        Bounds { guest_stores: 2, device_writes: 2, ..SMALL },
        Bounds { guest_tag_stores: 2, rounds: 2, ..SMALL },
    ];
    for bounds in more {
        let report = explore(&Precopy { variant: Variant::Real, bounds });
        println!("{bounds:?}: {report}");
        assert!(report.broken.is_empty(), "{report}");
        assert!(report.states > 5_000, "explored only {} states", report.states);
    }
}

#[test]
fn every_mutant_ends_with_a_wrong_copy() {
    for variant in Variant::MUTANTS {
        let report = explore(&Precopy { variant, bounds: SMALL });
        println!("{variant:?}: {report}");
        assert_eq!(report.broken_names(), ["A1 destination equals source"], "{variant:?}");
    }
}
