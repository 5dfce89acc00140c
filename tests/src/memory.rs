//! What a process holds of memory besides the guest's.

use std::fs;

/// Mappings of at least this many KiB under one of these names are guest memory.
const GUEST_KIB: u64 = 64 << 10;

/// The process's share of memory (PSS) in KiB without its mappings of guest memory; none if it is gone or not ours to look at.
pub fn beyond_guest(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mappings = mappings(&text);
    (!mappings.is_empty()).then(|| mappings.iter().filter(|m| !m.is_guest()).map(|m| m.pss_kib).sum())
}

/// The process's share of memory (PSS) in KiB, all of it; none if it is gone or not ours to look at.
pub fn whole(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mappings = mappings(&text);
    (!mappings.is_empty()).then(|| mappings.iter().map(|m| m.pss_kib).sum())
}

/// One mapping of `/proc/PID/smaps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    /// File, `[heap]` and the like, or nothing.
    name: &'a str,
    size_kib: u64,
    pss_kib: u64,
}

impl Mapping<'_> {
    /// Guest memory is a large mapping of a memory file, or of nothing.
    fn is_guest(&self) -> bool {
        self.size_kib >= GUEST_KIB && (self.name.starts_with("/memfd:") || self.name.is_empty())
    }
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        let kib = second.parse().unwrap_or_default();
        match (first, mappings.last_mut()) {
            ("Size:", Some(mapping)) => mapping.size_kib = kib,
            ("Pss:", Some(mapping)) => mapping.pss_kib = kib,
            // address range, permissions, offset, device, inode, name
            _ if !first.ends_with(':') => {
                let name = line.splitn(6, ' ').nth(5).unwrap_or_default().trim();
                mappings.push(Mapping { name, size_kib: 0, pss_kib: 0 });
            }
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-0048a000 r-xp 00000000 fd:03 960637                             /usr/bin/granule
Size:                552 kB
KernelPageSize:        4 kB
Rss:                 460 kB
Pss:                 100 kB
Pss_Dirty:            90 kB
VmFlags: rd ex mr mw me dw sd
ffff80000000-ffff90000000 rw-s 00000000 00:01 2050                       /memfd:granule-ram (deleted)
Size:             262144 kB
Pss:              103000 kB
ffff90000000-ffff90021000 rw-p 00000000 00:00 0
Size:                132 kB
Pss:                   8 kB
";

    #[test]
    fn guest_memory_is_left_out() {
        let found = mappings(SMAPS);
        let names: Vec<_> = found.iter().map(|m| (m.name, m.size_kib, m.pss_kib, m.is_guest())).collect();
        assert_eq!(
            names,
            [
                ("/usr/bin/granule", 552, 100, false),
                ("/memfd:granule-ram (deleted)", 262_144, 103_000, true),
                ("", 132, 8, false),
            ]
        );
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert_eq!(beyond_guest(u32::MAX), None);
    }
}
