//! The jail: seccomp tables as data, landlock, resource limits, and processes started with a list of descriptors.

pub mod arch;
pub mod attempts;
pub mod call;
mod enter;
pub mod filter;
mod ioctl;
mod kind;
pub mod limits;
mod paths;
mod process;
mod rule;
pub mod rules;
mod spawn;
mod sys;

pub use enter::{DROP_RULE, Error, JailReport, enter, enter_thread};
pub use kind::{DeviceKind, JailKind, Kind, SeccompMode, ThreadKind, UnknownWord};
pub use paths::{Landlock, landlock_abi};
pub use process::{Error as PrepareError, GLIBC_TUNABLES, huge_pages, prepare_process};
pub use rule::{Rule, Test};
pub use spawn::{Child, Error as SpawnError, Executable, Output, Spawn};
