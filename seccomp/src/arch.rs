//! The two architectures that tables are built for.

/// Architecture of the process that a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Device processes that serve another monitor, and the unit tests.
    X86_64,
    /// The machine.
    Aarch64,
}

impl Arch {
    /// Both, for tests of the tables.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture of this build.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// What the kernel calls it in `struct seccomp_data` (`AUDIT_ARCH_*`, linux/audit.h).
    #[must_use]
    pub const fn audit_number(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// From which number on a call is of another ABI under the same name: x32, whose calls no table knows.
    #[must_use]
    pub const fn first_foreign_number(self) -> Option<u32> {
        match self {
            Self::X86_64 => Some(0x4000_0000),
            Self::Aarch64 => None,
        }
    }
}
