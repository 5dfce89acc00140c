//! The two architectures that tables are built for.

use seccompiler::TargetArch;

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
}

impl From<Arch> for TargetArch {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::x86_64,
            Arch::Aarch64 => Self::aarch64,
        }
    }
}
