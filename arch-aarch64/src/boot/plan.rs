//! Where kernel, device tree and initramfs go in RAM.
//!
//! ```text
//!  RAM base (2 MiB aligned)
//!  ├─ text_offset ─┬─ kernel, image_size ─┬─ to 2 MiB ─┬─ FDT, 2 MiB ─┬─ initramfs, page aligned ─┐
//! ```
//!
//! Everything is as low as possible: that keeps it within the 512 MiB of the kernel that old kernels want of the device
//! tree, and within the 32 GiB that all want of the initramfs.

use std::fs::File;
use std::io;

use thiserror::Error;

use super::image::KernelImage;
use crate::fdt;
use crate::layout::{Gpa, Window};

/// The kernel lies `text_offset` bytes after a multiple of this.
pub(super) const KERNEL_ALIGNMENT: u64 = 2 << 20;
/// The largest page of an Arm kernel.
const PAGE: u64 = 64 << 10;

/// An initramfs, as far as the plan must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initramfs {
    /// Bytes of the file.
    pub size: u64,
}

/// The memory of a VM that boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootPlan {
    ram: Window,
    kernel: Window,
    kernel_bytes: u64,
    fdt: Gpa,
    initramfs: Option<Window>,
}

/// What vCPU 0 holds when it starts; all other general registers are zero, and the MMU is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRegisters {
    /// The kernel's first instruction.
    pub pc: u64,
    /// Where the device tree is.
    pub x0: u64,
    /// EL1 with its own stack pointer; debug, SError, IRQ and FIQ masked.
    pub pstate: u64,
}

impl BootRegisters {
    /// `PSTATE` of a CPU that starts: EL1h with D, A, I and F set.
    pub const PSTATE: u64 = 0x3c5;
}

/// Why a kernel and an initramfs cannot be placed.
#[derive(Debug, Error)]
pub enum PlanError {
    /// They need more memory than there is.
    #[error(
        "the kernel needs {kernel} bytes and the initramfs {initramfs}: with the device tree that takes {needed} bytes \
         of memory, the VM has {ram}"
    )]
    TooLargeForRam {
        /// Bytes of the kernel's image.
        kernel: u64,
        /// Bytes of the initramfs.
        initramfs: u64,
        /// Bytes of RAM that would do.
        needed: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// The initramfs is so far away that the kernel could not reach it.
    #[error("the initramfs of {0} bytes is too large: it must end within 32 GiB of the kernel")]
    InitramfsTooLarge(u64),
    /// The initramfs has no bytes.
    #[error("the initramfs file is empty")]
    InitramfsEmpty,
    /// The initramfs is a directory, a pipe, a device…
    #[error("the initramfs is not a regular file")]
    InitramfsNotRegular,
    /// Its size could not be read.
    #[error("cannot read the initramfs file")]
    InitramfsRead(#[source] io::Error),
}

impl Initramfs {
    /// Checks that an open file can be an initramfs and takes its size.
    ///
    /// # Errors
    /// Where it is not a regular file or has no bytes.
    pub fn inspect(file: &File) -> Result<Self, PlanError> {
        let metadata = file.metadata().map_err(PlanError::InitramfsRead)?;
        if !metadata.is_file() {
            return Err(PlanError::InitramfsNotRegular);
        }
        match metadata.len() {
            0 => Err(PlanError::InitramfsEmpty),
            size => Ok(Self { size }),
        }
    }
}

impl BootPlan {
    /// Places kernel, device tree and initramfs in RAM.
    ///
    /// # Errors
    /// Where they do not fit.
    pub fn new(ram: Window, kernel: &KernelImage, initramfs: Option<Initramfs>) -> Result<Self, PlanError> {
        let initramfs_size = initramfs.map_or(0, |i| i.size);
        let base = ram.base().0.next_multiple_of(KERNEL_ALIGNMENT) + kernel.text_offset();
        let fdt = (base + kernel.image_size()).next_multiple_of(KERNEL_ALIGNMENT);
        let initrd = fdt + fdt::MAX_SIZE as u64;
        let too_large = |needed| PlanError::TooLargeForRam {
            kernel: kernel.image_size(),
            initramfs: initramfs_size,
            needed,
            ram: ram.size(),
        };
        // Only the size of the initramfs comes from outside unbounded; it must not wrap.
        let end = initrd.checked_add(initramfs_size).ok_or_else(|| too_large(u64::MAX))?;
        if end > ram.end().0 {
            let needed = (end - ram.base().0).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            return Err(too_large(needed));
        }
        if end - (ram.base().0 & !((1 << 30) - 1)) > 32 << 30 {
            return Err(PlanError::InitramfsTooLarge(initramfs_size));
        }
        Ok(Self {
            ram,
            kernel: Window::new(base, kernel.image_size()),
            kernel_bytes: kernel.bytes_to_load(),
            fdt: Gpa(fdt),
            initramfs: initramfs.map(|i| Window::new(initrd, i.size)),
        })
    }

    /// RAM, as it was given.
    #[must_use]
    pub fn ram(&self) -> Window {
        self.ram
    }

    /// Where the kernel's image lies, its zeroed data included.
    #[must_use]
    pub fn kernel(&self) -> Window {
        self.kernel
    }

    /// Bytes of the kernel that come from its file.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        self.kernel_bytes
    }

    /// Where the device tree lies; [`fdt::MAX_SIZE`] bytes are free there.
    #[must_use]
    pub fn fdt(&self) -> Gpa {
        self.fdt
    }

    /// Where the initramfs lies.
    #[must_use]
    pub fn initramfs(&self) -> Option<Window> {
        self.initramfs
    }

    /// What vCPU 0 starts with.
    #[must_use]
    pub fn registers(&self) -> BootRegisters {
        BootRegisters { pc: self.kernel.base().0, x0: self.fdt.0, pstate: BootRegisters::PSTATE }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
