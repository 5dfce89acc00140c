//! Names of devices that were given none: `_disk0`, `_net1`, …, one counter for all kinds, as Cloud Hypervisor has it.

use std::collections::BTreeSet;

use granule_api::config::VmConfig;

/// The counter of one VM. It goes on over shutdown and boot: a name is never given twice.
#[derive(Debug, Default)]
pub struct Ids {
    next: u32,
}

impl Ids {
    /// The name of a device that was given none, the next of `prefix`, and not one of `taken`.
    pub fn give(&mut self, prefix: &str, taken: &BTreeSet<String>) -> String {
        loop {
            let name = format!("{prefix}{}", self.next);
            self.next += 1;
            if !taken.contains(&name) {
                return name;
            }
        }
    }
}

/// Every name that a configuration has given.
pub fn taken(config: &VmConfig) -> BTreeSet<String> {
    granule_api::config::names(config).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_counter_serves_all_kinds_and_steps_over_names_that_are_taken() {
        let mut ids = Ids::default();
        let taken = BTreeSet::from(["_net1".to_owned()]);
        let given = ["_disk", "_net", "_disk"].map(|prefix| ids.give(prefix, &taken));
        assert_eq!(given, ["_disk0", "_net2", "_disk3"]);
    }
}
