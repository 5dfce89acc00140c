//! From an open kernel file to a first vCPU that can start.
//!
//! ```text
//!  File ──inspect──► KernelImage ─┐
//!  File ──inspect──► Initramfs  ──┼─ BootPlan::new ──► BootPlan ──┬─ load ──────► guest memory
//!                          RAM ───┘       (pure)                  ├─ initramfs ─► fdt::build
//!                                                                 └─ registers ─► vCPU 0
//! ```
//!
//! The rules are those of the kernel's Documentation/arch/arm64/booting.rst. Only a plain arm64 `Image` boots;
//! anything else is refused under its own name, so that the message tells what to do.

mod image;
mod load;
mod plan;

pub use image::{ImageError, KernelImage, OtherFile};
pub use load::{LoadError, load, load_into_file, write_fdt};
pub use plan::{BootPlan, BootRegisters, Initramfs, PlanError};
