//! Placing pages under userfaultfd.
use super::host::Host;
use libtest_mimic::Trial;
pub fn rules(_: &Host) -> Vec<Trial> {
    vec![]
}
