//! What holds a process, for `vm.info` and for tests.

use serde::Serialize;

use crate::kind::{JailKind, Kind, SeccompMode};
use crate::{paths, sys};

/// What holds a process of ours.
///
/// Every process enters its jail before it serves anything and ends if it cannot, so what [`JailReport::of`] says of a
/// kind on this host is true of each that runs; a device process that root started has left more besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JailReport {
    /// Whose jail.
    pub kind: &'static str,
    /// What seccomp does with a call that is not allowed.
    pub seccomp: SeccompMode,
    /// The landlock ABI whose every right is given up; 0 where there is none.
    pub landlock_abi: u32,
    /// The kernel refuses to make memory executable, with seccomp or without (PR_SET_MDWE).
    pub mdwe: bool,
    /// Which of the host's namespaces, and whether its files and root, the process has left; known to the process alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<&'static str>,
    /// What the host's kernel is too old for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<&'static str>,
}

impl JailReport {
    /// What holds every process of a kind on this host.
    #[must_use]
    pub fn of(kind: JailKind, seccomp: SeccompMode) -> Self {
        // control opens paths and may start programs that make code.
        if kind == JailKind::Control {
            return Self::new(kind, seccomp, 0, false, Vec::new());
        }
        let (landlock_abi, mdwe) = (paths::landlock_abi().min(paths::KNOWN_ABI), sys::has_mdwe());
        Self::new(kind, seccomp, landlock_abi, mdwe, missing(landlock_abi, mdwe))
    }

    fn new(
        kind: JailKind,
        seccomp: SeccompMode,
        landlock_abi: u32,
        mdwe: bool,
        missing: Vec<&'static str>,
    ) -> Self {
        Self { kind: Kind::from(kind).name(), seccomp, landlock_abi, mdwe, left: Vec::new(), missing }
    }
}

/// What Linux 6.12 gives and this kernel does not.
fn missing(landlock_abi: u32, mdwe: bool) -> Vec<&'static str> {
    let wanted = [
        (landlock_abi >= 1, "landlock (Linux 5.13, and it must be enabled)"),
        (landlock_abi >= 3, "landlock for truncation (Linux 6.2)"),
        (mdwe, "PR_SET_MDWE (Linux 6.3)"),
        (landlock_abi >= 4, "landlock for TCP (Linux 6.7)"),
        (landlock_abi >= 5, "landlock for device ioctls (Linux 6.10)"),
        (landlock_abi >= 6, "landlock for signals and abstract sockets (Linux 6.12)"),
    ];
    wanted.into_iter().filter(|(there, _)| !there).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        assert_eq!(missing(6, true), [] as [&str; 0]);
        assert_eq!(missing(2, false).len(), 5);
        assert!(missing(0, true)[0].starts_with("landlock (Linux 5.13"));
    }

    #[test]
    fn a_report_names_what_seccomp_does() {
        let report = JailReport::new(JailKind::Machine, SeccompMode::Enforce, 6, true, Vec::new());
        let json = serde_json::to_value(&report).unwrap();
        let expected = r#"{"kind":"machine","seccomp":"kill","landlock_abi":6,"mdwe":true}"#;
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }
}
