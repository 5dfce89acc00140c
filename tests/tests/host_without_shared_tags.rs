//! A host whose kernel refuses tagged memory that is shared: 6.1. The lab's cargo runner knows this file by its name.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

mod untagged;

/// A word of the reason that this host's monitor must give.
const REASON: &str = "this kernel refuses shared guest memory";

#[test]
fn this_is_the_host_that_these_tests_are_about() {
    granule_tests::lab::must_be("6.1", true);
}
