//! Landlock: no path at all, no TCP or UDP, no abstract socket, and for devices no signal to outside.
//!
//! Every right that the crate knows is handled and none is granted; the kernel takes those that it has (Linux 6.1: ABI 2,
//! files; 6.12: ABI 6, network and scopes too). Landlock holds with `--seccomp false` and without root. Descriptors that
//! the process has, or receives later, keep the rights they were opened with.
//!
//! The machine has no signal scope: the kernel checks the parent's domain when it sends PDEATHSIG, so a scoped machine
//! that is killed would leave control behind. Its seccomp table has no call that signals another process.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

/// The newest ABI whose rights were weighed here: later ones might forbid what a process needs.
const KNOWN: ABI = ABI::V10;

/// How much of the request the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Landlock {
    /// Every right that this build knows.
    Full,
    /// The rights of the kernel's ABI, which is older than this build.
    Partial,
    /// Nothing: the kernel has no landlock, it is switched off, or the process is none that is confined.
    None,
}

/// Gives up every path, for the calling thread and those that it starts.
///
/// # Errors
/// Where the kernel has landlock and refuses all the same. A kernel without landlock is no error, it is reported.
pub(crate) fn give_up(scope_signals: bool) -> Result<Landlock, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket)?;
    if scope_signals {
        ruleset = ruleset.scope(Scope::Signal)?;
    }
    let status = ruleset.create()?.restrict_self()?;
    let enforced = match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::None,
    };
    Ok(enforced)
}

/// Asks the kernel for its landlock ABI; 0 where there is none.
#[must_use]
pub fn landlock_abi() -> u32 {
    crate::sys::landlock_abi()
}
