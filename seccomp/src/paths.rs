//! Landlock: no path at all, no TCP or UDP, no abstract socket, and for devices no signal to outside.
//!
//! Every right that the crate knows is handled and none is granted; the kernel takes those that it has (Linux 6.1: ABI 2,
//! files; 6.12: ABI 6, network and scopes too). Landlock holds with `--seccomp false` and without root. Descriptors that
//! the process has, or receives later, keep the rights they were opened with.
//!
//! The machine has no signal scope: the kernel checks the parent's domain when it sends PDEATHSIG, so a scoped machine
//! that is killed would leave control behind. Its seccomp table has no call that signals another process.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError, Scope,
};

/// The newest ABI whose rights were weighed here: later ones might forbid what a process needs.
const KNOWN: ABI = ABI::V10;
/// The same as the kernel counts it.
pub(crate) const KNOWN_ABI: u32 = 10;

/// Gives up every path, for the calling thread and those that it starts.
///
/// # Errors
/// Where the kernel has landlock and refuses all the same. A kernel without landlock is no error: [`crate::JailReport`] tells.
pub(crate) fn give_up(scope_signals: bool) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket)?;
    if scope_signals {
        ruleset = ruleset.scope(Scope::Signal)?;
    }
    ruleset.create()?.restrict_self().map(drop)
}

/// Asks the kernel for its landlock ABI; 0 where there is none.
#[must_use]
pub fn landlock_abi() -> u32 {
    crate::sys::landlock_abi()
}
