//! `rate_limit_groups`: the memory through which disks share their limits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use granule_devices::rate::group_memory;

/// What disks share, by the names of their groups. It lives as long as the configuration: neither a reboot nor the end of
/// a process fills the buckets.
#[derive(Debug, Default)]
pub struct Groups(BTreeMap<String, OwnedFd>);

impl Groups {
    /// What the disks of that group share, made for the first of them.
    pub(super) fn memory(&mut self, group: &str) -> io::Result<OwnedFd> {
        if let Some(memory) = self.0.get(group) {
            return memory.try_clone();
        }
        let memory = group_memory()?;
        let theirs = memory.try_clone()?;
        self.0.insert(group.to_owned(), memory);
        Ok(theirs)
    }
}
