//! One line of a table: a system call, what its arguments must be, and why it is there.

use crate::call::Call;

/// A condition on one argument of a call, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The argument, an `int` or `unsigned int` to the kernel, is this value. Its upper half is ignored, as the kernel does.
    Is(u8, u32),
    /// The argument, an `int` to the kernel, is one of these.
    OneOf(u8, &'static [u32]),
    /// The argument, a `long` to the kernel, is this value: all 64 bits count.
    LongIs(u8, u32),
    /// None of these bits is set in the argument.
    Without(u8, u32),
    /// All of these bits are set in the argument.
    With(u8, u32),
    /// The argument is the pid of the process that enters the jail.
    OwnPid(u8),
}

/// What a line answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the table is for: it allows, or refuses.
    Matched,
    /// An error, for a call whose caller has another way.
    Errno(u16),
}

/// One line of a table. It applies when every test holds; two lines of one call are alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The call.
    pub call: Call,
    /// The tests that must all hold; none means any arguments.
    pub when: &'static [Test],
    /// What becomes of the call then.
    pub answer: Answer,
    /// Who needs the call, or what it would give away.
    pub why: &'static str,
}

impl Rule {
    /// A rule for the call with any arguments.
    #[must_use]
    pub const fn any(call: Call, why: &'static str) -> Self {
        Self::when(call, &[], why)
    }

    /// A rule for the call where every test holds.
    #[must_use]
    pub const fn when(call: Call, when: &'static [Test], why: &'static str) -> Self {
        Self { call, when, answer: Answer::Matched, why }
    }

    /// A rule that fails the call with an error.
    #[must_use]
    pub const fn errno(call: Call, errno: u16, why: &'static str) -> Self {
        Self { call, when: &[], answer: Answer::Errno(errno), why }
    }

    /// Says whether two lines match the same calls, whatever reason each gives.
    #[must_use]
    pub fn matches_same(&self, other: &Self) -> bool {
        self.call == other.call && self.when == other.when
    }
    /// Arguments that the line matches; those that it does not look at are of no use to any call.
    #[must_use]
    pub fn example(&self) -> [u64; 6] {
        let mut arguments = [u64::MAX; 6];
        for test in self.when {
            match *test {
                Test::Is(index, value) | Test::LongIs(index, value) => {
                    arguments[usize::from(index)] = value.into();
                }
                Test::OneOf(index, values) => {
                    arguments[usize::from(index)] = values.first().copied().unwrap_or_default().into();
                }
                Test::With(index, mask) => arguments[usize::from(index)] |= u64::from(mask),
                Test::Without(index, mask) => arguments[usize::from(index)] &= !u64::from(mask),
                Test::OwnPid(index) => arguments[usize::from(index)] = std::process::id().into(),
            }
        }
        arguments
    }
}
