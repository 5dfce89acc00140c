//! Where everything is in guest physical memory.
//!
//! ```text
//!  0x0800_0000  GICD       64 KiB
//!  0x0808_0000  ITS       128 KiB
//!  0x080a_0000  GICR      128 KiB per vCPU, at most 32
//!  0x0900_0000  PL011       4 KiB  serial port
//!  0x0901_0000  PL031       4 KiB  clock
//!  0x0903_0000  PL061       4 KiB  power button
//!  0x1000_0000  PCI 32-bit windows, 512 MiB shared evenly by the segments
//!  0x3000_0000  PCI ECAM, 16 MiB (16 buses) per segment, at most 16 segments
//!  0x4000_0000  RAM
//!  above RAM    memory that may be plugged, from a multiple of 512 MiB on
//!  above that   persistent memory, each image at a multiple of 1 GiB
//!  above that   PCI 64-bit windows, shared evenly by the segments
//! ```
//!
//! Addresses below RAM never move: they are part of what a snapshot means. What is above depends on the sizes of RAM and
//! images and on the guest physical address space only, so the same configuration gives the same map. Images are near
//! RAM because a kernel maps both in one linear map, which with 39 bits of virtual address spans 256 GiB.

use serde::Serialize;
use thiserror::Error;

/// A guest physical address.
pub use vm_memory::GuestAddress as Gpa;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most vCPUs that one VM can have.
pub const MAX_VCPUS: u8 = 32;
/// The most PCI segments (domains) that one VM can have.
pub const MAX_PCI_SEGMENTS: u16 = 16;
/// Buses that one segment's ECAM window decodes.
pub const PCI_BUSES_PER_SEGMENT: u8 = 16;
/// The size of RAM is a multiple of this: the largest page that an Arm kernel uses (64 KiB).
pub const RAM_GRANULARITY: u64 = 64 * KIB;
/// The size of an image of persistent memory is a multiple of this: what Linux can give pages of its own to.
pub const PMEM_GRANULARITY: u64 = 2 * MIB;
/// Pluggable memory is whole memory blocks of a Linux with pages of 4 KiB, and begins where one of a Linux with pages of
/// 64 KiB could.
pub const HOTPLUG_GRANULARITY: u64 = 128 * MIB;
const HOTPLUG_ALIGNMENT: u64 = 512 * MIB;
/// Where RAM begins.
pub const RAM_BASE: Gpa = Gpa(GIB);

/// The GIC distributor.
pub const GIC_DISTRIBUTOR: Window = Window::new(0x0800_0000, 64 * KIB);
/// The GIC's interrupt translation service (message-signalled interrupts).
pub const GIC_ITS: Window = Window::new(0x0808_0000, 128 * KIB);
/// Where the GIC redistributors begin, one after the other.
pub const GIC_REDISTRIBUTORS_BASE: Gpa = Gpa(0x080a_0000);
/// What one redistributor takes (two frames of 64 KiB).
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 128 * KIB;
/// The serial port, a PL011.
pub const UART: Window = Window::new(0x0900_0000, 4 * KIB);
/// The clock, a PL031.
pub const RTC: Window = Window::new(0x0901_0000, 4 * KIB);
/// The GPIO controller with the power button, a PL061.
pub const GPIO: Window = Window::new(0x0903_0000, 4 * KIB);
/// All PCI 32-bit windows together.
pub const PCI_MMIO32: Window = Window::new(0x1000_0000, 512 * MIB);
/// All PCI configuration windows together.
pub const PCI_ECAM: Window = Window::new(0x3000_0000, 256 * MIB);
/// The configuration window of one segment: 1 MiB per bus.
pub const PCI_ECAM_SIZE: u64 = PCI_BUSES_PER_SEGMENT as u64 * MIB;

/// The 64-bit windows start here where the address space allows, so that they do not move with the size of RAM.
const PCI_MMIO64_USUAL_BASE: u64 = 256 * GIB;
/// What one segment gets at most and at least of the 64-bit windows.
const PCI_MMIO64_MAX_PER_SEGMENT: u64 = 512 * GIB;
const PCI_MMIO64_MIN_PER_SEGMENT: u64 = GIB;

/// A range of guest physical addresses, `base ≤ address < base + size`. Never wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    base: u64,
    size: u64,
}

impl Window {
    /// The range of `size` bytes at `base`.
    ///
    /// # Panics
    /// Where the range would go past the end of the 64-bit address space. All callers use checked or constant
    /// numbers; a range from elsewhere goes through [`Window::checked`].
    #[must_use]
    pub const fn new(base: u64, size: u64) -> Self {
        assert!(base.checked_add(size).is_some(), "the window passes the end of the address space");
        Self { base, size }
    }

    /// The range of `size` bytes at `base`, or nothing where it would wrap.
    #[must_use]
    pub const fn checked(base: u64, size: u64) -> Option<Self> {
        match base.checked_add(size) {
            Some(_) => Some(Self { base, size }),
            None => None,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn base(&self) -> Gpa {
        Gpa(self.base)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The first address after the range.
    #[must_use]
    pub const fn end(&self) -> Gpa {
        Gpa(self.base + self.size)
    }

    /// Whether the address is inside.
    #[must_use]
    pub const fn contains(&self, address: Gpa) -> bool {
        address.0 >= self.base && address.0 - self.base < self.size
    }

    /// Whether the other range is wholly inside.
    #[must_use]
    pub const fn encloses(&self, other: &Window) -> bool {
        other.base >= self.base && other.base + other.size <= self.base + self.size
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub const fn overlaps(&self, other: &Window) -> bool {
        self.base < other.base + other.size && other.base < self.base + self.size
    }
}

impl Window {
    /// The first part of it of so many bytes that begins at a multiple of a GiB and overlaps none that is `taken`.
    #[must_use]
    pub fn first_fit(&self, taken: &[Window], size: u64) -> Option<Window> {
        let ends = taken.iter().map(|window| window.end().0).chain([self.base().0]);
        let mut starts: Vec<u64> = ends.filter_map(|end| end.checked_next_multiple_of(GIB)).collect();
        starts.sort_unstable();
        let free =
            |window: &Window| self.encloses(window) && !taken.iter().any(|other| other.overlaps(window));
        starts.into_iter().filter_map(|start| Window::checked(start, size)).find(free)
    }
}

/// One PCI segment's share of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PciSegment {
    /// The PCI domain number.
    pub id: u16,
    /// Configuration space, buses 0 to 15.
    pub ecam: Window,
    /// BARs of 32 bits.
    pub mmio32: Window,
    /// BARs of 64 bits.
    pub mmio64: Window,
}

/// The memory map of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    ram: Window,
    hotplug: Option<Window>,
    pmem: Vec<Window>,
    vcpus: u8,
    segments: Vec<PciSegment>,
}

/// Why there is no memory map for a configuration.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// RAM of no bytes.
    #[error("the VM has no memory")]
    NoRam,
    /// RAM of an odd size.
    #[error("memory of {size} bytes is not a multiple of {RAM_GRANULARITY} bytes (64 KiB)")]
    RamUnaligned {
        /// Bytes asked for.
        size: u64,
    },
    /// RAM and the 64-bit PCI windows do not fit in what the host's processor can translate.
    #[error(
        "memory of {size} bytes does not fit: with {ipa_bits} bits of guest physical address and {segments} PCI \
         segment(s), {most} bytes are possible"
    )]
    RamTooLarge {
        /// Bytes asked for.
        size: u64,
        /// Bits of guest physical address.
        ipa_bits: u8,
        /// PCI segments asked for.
        segments: u16,
        /// The most that would fit.
        most: u64,
    },
    /// What may be plugged does not fit between RAM and the 64-bit PCI windows.
    #[error(
        "{size} bytes of pluggable memory do not fit: with {ipa_bits} bits of guest physical address, {most} bytes are left for it"
    )]
    HotplugTooLarge {
        /// Bytes asked for.
        size: u64,
        /// Bits of guest physical address.
        ipa_bits: u8,
        /// The most that would fit.
        most: u64,
    },
    /// An image of persistent memory of an odd size.
    #[error("persistent memory of {size} bytes is not a multiple of {PMEM_GRANULARITY} bytes (2 MiB)")]
    PmemUnaligned {
        /// Bytes asked for.
        size: u64,
    },
    /// Persistent memory does not fit between RAM and the 64-bit PCI windows.
    #[error(
        "persistent memory of {size} bytes does not fit: with {ipa_bits} bits of guest physical address, {most} bytes are \
         left for it"
    )]
    PmemTooLarge {
        /// Bytes asked for.
        size: u64,
        /// Bits of guest physical address.
        ipa_bits: u8,
        /// The most that would fit.
        most: u64,
    },
    /// A number of vCPUs outside 1 to 32.
    #[error("{0} vCPUs asked for; 1 to {MAX_VCPUS} are possible")]
    VcpuCount(u32),
    /// A number of segments outside 1 to 16.
    #[error("{0} PCI segments asked for; 1 to {MAX_PCI_SEGMENTS} are possible")]
    SegmentCount(u16),
}

impl Layout {
    /// The map of a VM with `ram_size` bytes of RAM, `vcpus` vCPUs and `segments` PCI segments in a guest
    /// physical address space of `ipa_bits` bits.
    ///
    /// # Errors
    /// Says which of the numbers is impossible.
    pub fn new(ram_size: u64, vcpus: u32, segments: u16, ipa_bits: u8) -> Result<Self, LayoutError> {
        if ram_size == 0 {
            return Err(LayoutError::NoRam);
        }
        if !ram_size.is_multiple_of(RAM_GRANULARITY) {
            return Err(LayoutError::RamUnaligned { size: ram_size });
        }
        let vcpus = u8::try_from(vcpus)
            .ok()
            .filter(|n| (1..=MAX_VCPUS).contains(n))
            .ok_or(LayoutError::VcpuCount(vcpus))?;
        if !(1..=MAX_PCI_SEGMENTS).contains(&segments) {
            return Err(LayoutError::SegmentCount(segments));
        }
        let most = most_ram(segments, ipa_bits);
        if ram_size > most {
            return Err(LayoutError::RamTooLarge { size: ram_size, ipa_bits, segments, most });
        }
        let ram = Window::new(RAM_BASE.0, ram_size);
        let segments = share_windows(ram.end().0, segments, ipa_bits);
        Ok(Self { ram, hotplug: None, pmem: Vec::new(), vcpus, segments })
    }

    /// The same map with `size` bytes that may be plugged, or more: [`HOTPLUG_GRANULARITY`].
    ///
    /// # Errors
    /// Says how much could be.
    pub fn with_hotplug(self, size: u64, ipa_bits: u8) -> Result<Self, LayoutError> {
        if size == 0 {
            return Ok(self);
        }
        // As many as there were in `new`, so at most 16.
        let count = self.segments.len() as u16;
        let limit = space_end(ipa_bits).saturating_sub(u64::from(count) * PCI_MMIO64_MIN_PER_SEGMENT);
        let window = hotplug_window(self.ram.size(), size).filter(|window| window.end().0 <= limit);
        let Some(window) = window else {
            let most = limit.saturating_sub(self.ram.end().0.next_multiple_of(HOTPLUG_ALIGNMENT));
            return Err(LayoutError::HotplugTooLarge { size, ipa_bits, most });
        };
        let segments = share_windows(window.end().0, count, ipa_bits);
        Ok(Self { hotplug: Some(window), segments, ..self })
    }

    /// The same map with an image of persistent memory of each of these sizes, in this order.
    ///
    /// # Errors
    /// Says which size is impossible.
    pub fn with_pmem(self, sizes: &[u64], ipa_bits: u8) -> Result<Self, LayoutError> {
        // As many as there were in `new`, so at most 16.
        let count = self.segments.len() as u16;
        let limit = space_end(ipa_bits).saturating_sub(u64::from(count) * PCI_MMIO64_MIN_PER_SEGMENT);
        let mut free = self.memory().end().0.next_multiple_of(GIB);
        let mut pmem = Vec::with_capacity(sizes.len());
        for &size in sizes {
            if size == 0 || !size.is_multiple_of(PMEM_GRANULARITY) {
                return Err(LayoutError::PmemUnaligned { size });
            }
            let most = limit.saturating_sub(free);
            if size > most {
                return Err(LayoutError::PmemTooLarge { size, ipa_bits, most });
            }
            let window = Window::new(free, size);
            free = window.end().0.next_multiple_of(GIB);
            pmem.push(window);
        }
        let end = pmem.last().map_or(self.memory().end().0, |last| last.end().0);
        let segments = share_windows(end, count, ipa_bits);
        Ok(Self { pmem, segments, ..self })
    }

    /// RAM: always one range.
    #[must_use]
    pub fn ram(&self) -> Window {
        self.ram
    }

    /// What may be plugged: one range behind RAM, if any.
    #[must_use]
    pub fn hotplug(&self) -> Option<Window> {
        self.hotplug
    }

    /// RAM, and what may be plugged, with the gap between them: one range.
    #[must_use]
    pub fn memory(&self) -> Window {
        let end = self.hotplug.unwrap_or(self.ram).end().0;
        Window::new(RAM_BASE.0, end - RAM_BASE.0)
    }

    /// Persistent memory, one range for each image.
    #[must_use]
    pub fn pmem(&self) -> &[Window] {
        &self.pmem
    }

    /// What is free between memory and the 64-bit PCI windows, for memory that comes later; nothing where the address space
    /// is so small that the windows begin right above memory.
    #[must_use]
    pub fn spare(&self) -> Option<Window> {
        let end = self.pmem.last().map_or(self.memory().end(), Window::end).0.next_multiple_of(GIB);
        let windows = self.segments.first()?.mmio64.base().0;
        Window::checked(end, windows.checked_sub(end)?).filter(|spare| spare.size() > 0)
    }

    /// The number of vCPUs, 1 to 32.
    #[must_use]
    pub fn vcpus(&self) -> u8 {
        self.vcpus
    }

    /// The GIC redistributors of all vCPUs.
    #[must_use]
    pub fn redistributors(&self) -> Window {
        Window::new(GIC_REDISTRIBUTORS_BASE.0, GIC_REDISTRIBUTOR_SIZE * u64::from(self.vcpus))
    }

    /// The PCI segments, in the order of their ids, at least one.
    #[must_use]
    pub fn segments(&self) -> &[PciSegment] {
        &self.segments
    }
}

/// Where `size` bytes may be plugged behind RAM of `ram_size` bytes, or nothing where addresses end before.
#[must_use]
pub fn hotplug_window(ram_size: u64, size: u64) -> Option<Window> {
    let end = RAM_BASE.0.checked_add(ram_size)?;
    let base = end.checked_next_multiple_of(HOTPLUG_ALIGNMENT)?;
    Window::checked(base, size.checked_next_multiple_of(HOTPLUG_GRANULARITY)?)
}

/// The bytes of RAM that fit under `ipa_bits` bits, with the smallest possible 64-bit windows above it.
fn most_ram(segments: u16, ipa_bits: u8) -> u64 {
    space_end(ipa_bits)
        .saturating_sub(u64::from(segments) * PCI_MMIO64_MIN_PER_SEGMENT)
        .saturating_sub(RAM_BASE.0)
}

/// The first address past the guest physical address space.
fn space_end(ipa_bits: u8) -> u64 {
    // 52 bits are the most that the architecture has; what the host really has was asked of KVM before.
    1 << ipa_bits.min(52)
}

fn share_windows(memory_end: u64, count: u16, ipa_bits: u8) -> Vec<PciSegment> {
    let n = u64::from(count);
    let end = space_end(ipa_bits);
    // The caller has checked that at least 1 GiB per segment is left above memory.
    let above = memory_end.next_multiple_of(GIB);
    let base = if end.saturating_sub(PCI_MMIO64_USUAL_BASE) >= n * PCI_MMIO64_MIN_PER_SEGMENT {
        above.max(PCI_MMIO64_USUAL_BASE)
    } else {
        above
    };
    let size64 = ((end - base) / n).min(PCI_MMIO64_MAX_PER_SEGMENT) & !(GIB - 1);
    // A power of two, so that a BAR as large as the window is aligned in it.
    let size32 = PCI_MMIO32.size() / n.next_power_of_two();
    (0..count)
        .map(|id| {
            let i = u64::from(id);
            PciSegment {
                id,
                ecam: Window::new(PCI_ECAM.base().0 + i * PCI_ECAM_SIZE, PCI_ECAM_SIZE),
                mmio32: Window::new(PCI_MMIO32.base().0 + i * size32, size32),
                mmio64: Window::new(base + i * size64, size64),
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
