//! From a table to the kernel: compiles it to BPF and installs it on the calling thread.
//!
//! Two filters go on, in this order:
//!
//! 1. `clone3` answers ENOSYS. Its flags lie in memory, where BPF cannot read them; glibc then takes `clone`, whose flags
//!    are an argument. Only jails that list what they allow have it: control's children are processes.
//! 2. The table. It allows `clone3` where it allows threads, since of two filters the stricter answer wins.
//!
//! A filter stays for the life of the thread, is inherited by its threads and children, and can only be added to.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::arch::Arch;
use crate::call::CLONE3;
use crate::kind::SeccompMode;
use crate::rule::{Rule, Test};
use crate::rules::{Sense, Table};

/// Why a filter was not installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table does not compile: a mistake in it, which the unit tests would have found.
    #[error("compiling a seccomp table")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refuses the filter.
    #[error(
        "installing a seccomp filter; does this kernel have CONFIG_SECCOMP_FILTER? (--seccomp false runs without)"
    )]
    Install(#[source] seccompiler::Error),
}

impl From<seccompiler::BackendError> for Error {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Compile(error)
    }
}

/// Compiles a table for an architecture; `own_pid` is what [`Test::OwnPid`] compares with.
///
/// Returns nothing in the mode that has no filter.
///
/// # Errors
/// [`Error::Compile`] where the table is wrong.
pub fn compile(
    table: &Table,
    mode: SeccompMode,
    arch: Arch,
    own_pid: u32,
) -> Result<Option<BpfProgram>, Error> {
    let refusal = match mode {
        SeccompMode::Enforce => SeccompAction::KillProcess,
        SeccompMode::Log => SeccompAction::Log,
        SeccompMode::Off => return Ok(None),
    };
    let (otherwise, matched) = match table.sense {
        Sense::Allow => (refusal, SeccompAction::Allow),
        Sense::Refuse => (SeccompAction::Allow, refusal),
    };
    let mut lines: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in &table.rules {
        if let Some(number) = rule.call.number(arch) {
            lines.entry(number).or_default().extend(alternatives(rule, own_pid)?);
        }
    }
    let filter = SeccompFilter::new(lines, otherwise, matched, arch.into())?;
    Ok(Some(filter.try_into()?))
}

/// Installs a table on the calling thread; the threads that it starts later inherit it.
///
/// # Errors
/// Where the table does not compile or the kernel refuses it.
pub(crate) fn install(table: &Table, mode: SeccompMode) -> Result<(), Error> {
    let Some(program) = compile(table, mode, Arch::NATIVE, std::process::id())? else { return Ok(()) };
    if table.sense == Sense::Allow && table.rules.iter().any(|rule| rule.call == CLONE3) {
        seccompiler::apply_filter(&no_clone3(Arch::NATIVE)?).map_err(Error::Install)?;
    }
    seccompiler::apply_filter(&program).map_err(Error::Install)
}

fn no_clone3(arch: Arch) -> Result<BpfProgram, Error> {
    let lines = CLONE3.number(arch).map(|number| (number, Vec::new())).into_iter().collect();
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok(SeccompFilter::new(lines, SeccompAction::Allow, enosys, arch.into())?.try_into()?)
}

/// One line's tests as seccompiler's rules, any of which is enough; none at all means always.
fn alternatives(rule: &Rule, own_pid: u32) -> Result<Vec<SeccompRule>, Error> {
    if rule.when.is_empty() {
        return Ok(Vec::new());
    }
    let mut conjunctions: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for test in rule.when {
        let choices = conditions(*test, own_pid)?;
        conjunctions = conjunctions
            .iter()
            .flat_map(|so_far| {
                choices.iter().map(move |choice| so_far.iter().cloned().chain([choice.clone()]).collect())
            })
            .collect();
    }
    Ok(conjunctions.into_iter().map(SeccompRule::new).collect::<Result<_, _>>()?)
}

/// One test as conditions, any of which is enough.
fn conditions(test: Test, own_pid: u32) -> Result<Vec<SeccompCondition>, Error> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let one = |arg, len, op, value| Ok(vec![SeccompCondition::new(arg, len, op, value)?]);
    match test {
        Test::Is(arg, value) => one(arg, Dword, Eq, value.into()),
        Test::OwnPid(arg) => one(arg, Dword, Eq, own_pid.into()),
        Test::Without(arg, mask) => one(arg, Qword, MaskedEq(mask), 0),
        Test::With(arg, mask) => one(arg, Qword, MaskedEq(mask), mask),
        Test::OneOf(arg, values) => {
            values.iter().map(|value| Ok(SeccompCondition::new(arg, Dword, Eq, u64::from(*value))?)).collect()
        }
        Test::LongOneOf(arg, values) => {
            values.iter().map(|value| Ok(SeccompCondition::new(arg, Qword, Eq, *value)?)).collect()
        }
    }
}
