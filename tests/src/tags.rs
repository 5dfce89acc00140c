//! Tagged memory as an arm64 Linux program uses it: the only unsafe module about tags.
//!
//! Linux `Documentation/arch/arm64/memory-tagging-extension.rst`; the instructions are in the Arm ARM, chapter D10.

use std::io;
use std::ptr::NonNull;

/// `HWCAP2_MTE`: the process may use tagged memory.
pub const HWCAP2_MTE: usize = 1 << 18;
/// `HWCAP2_MTE3`: asymmetric checks too.
pub const HWCAP2_MTE3: usize = 1 << 22;
/// Bytes that one tag covers.
pub const GRANULE: usize = 16;

const PROT_MTE: i32 = 0x20;
const PR_SET_TAGGED_ADDR_CTRL: i32 = 55;
const PR_TAGGED_ADDR_ENABLE: usize = 1;
const PR_MTE_TCF_SYNC: usize = 1 << 1;
const PR_MTE_TAG_SHIFT: usize = 3;

/// Turns on synchronous tag checks in this thread; `irg` draws only tags of `include` (bit n = tag n).
pub fn check_synchronously(include: u16) -> io::Result<()> {
    let control = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | usize::from(include) << PR_MTE_TAG_SHIFT;
    // SAFETY: this prctl takes plain numbers and changes only how this thread's accesses are checked.
    match unsafe { libc::prctl(PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where the pages of a [`TaggedMemory`] come from.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// Private pages of the process.
    Anonymous,
    /// Pages that other processes could map too.
    Shared,
}

/// Memory mapped with `PROT_MTE`; unmapped on drop.
pub struct TaggedMemory {
    base: NonNull<u8>,
    len: usize,
}

impl TaggedMemory {
    /// Maps `len` bytes, a multiple of the page size; EINVAL on a machine without tags.
    ///
    /// The bit is set by mprotect: mmap passes over bits that the machine does not know.
    pub fn map(backing: Backing, len: usize) -> io::Result<Self> {
        let flags = libc::MAP_ANONYMOUS
            | match backing {
                Backing::Anonymous => libc::MAP_PRIVATE,
                Backing::Shared => libc::MAP_SHARED,
            };
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let memory = Self { base, len };
        // SAFETY: the range is the new mapping, which nothing else refers to.
        match unsafe { libc::mprotect(base.as_ptr().cast(), len, prot | PROT_MTE) } {
            0 => Ok(memory),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Number of granules.
    pub fn granules(&self) -> usize {
        self.len / GRANULE
    }

    /// The pointer to granule `index`, without a tag.
    pub fn pointer(&self, index: usize) -> usize {
        self.address(index)
    }

    /// The untagged address of granule `index`.
    fn address(&self, index: usize) -> usize {
        assert!(index < self.granules(), "granule {index} of {}", self.granules());
        self.base.as_ptr().addr() + index * GRANULE
    }

    /// Gives granule `index` the tag and returns the pointer that may touch it.
    pub fn set_tag(&self, index: usize, tag: u8) -> usize {
        let pointer = with_tag(self.address(index), tag);
        // SAFETY: the address lies in this live PROT_MTE mapping; STG changes the granule's tag only.
        unsafe { store_tag(pointer) };
        pointer
    }

    /// The tag that memory holds for granule `index`.
    pub fn tag(&self, index: usize) -> u8 {
        // SAFETY: the address lies in this live PROT_MTE mapping.
        tag_of(unsafe { load_tag(self.address(index)) })
    }

    /// Stores through a pointer that [`Self::set_tag`] returned; a wrong tag kills the process.
    pub fn store(&self, pointer: usize, value: u64) {
        assert!(self.holds(pointer), "a pointer of another mapping");
        // SAFETY: `pointer` without its tag is 8 aligned writable bytes of this mapping that nothing else refers to.
        unsafe { std::ptr::with_exposed_provenance_mut::<u64>(pointer).write_volatile(value) };
    }

    /// Loads through a pointer that [`Self::set_tag`] returned; a wrong tag kills the process.
    pub fn load(&self, pointer: usize) -> u64 {
        assert!(self.holds(pointer), "a pointer of another mapping");
        // SAFETY: as for `store`.
        unsafe { std::ptr::with_exposed_provenance::<u64>(pointer).read_volatile() }
    }

    /// Has the kernel read from `offset` of `file` into all of it, as into memory without tags.
    pub fn fill_from(&self, file: &std::fs::File, offset: i64) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the kernel writes no further than the end of this mapping, to which no reference is ever handed out.
        let read = unsafe { libc::pread(file.as_raw_fd(), self.base.as_ptr().cast(), self.len, offset) };
        match usize::try_from(read) {
            Ok(count) if count == self.len => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Reads what a stream has, at most `count` bytes, to a pointer that [`Self::set_tag`] returned; the kernel checks the
    /// tags of all that it writes.
    pub fn receive(&self, stream: &std::fs::File, pointer: usize, count: usize) -> io::Result<usize> {
        let offset = with_tag(pointer, 0).wrapping_sub(self.base.as_ptr().expose_provenance());
        assert!(offset <= self.len && count <= self.len - offset, "not within this mapping");
        let buffer = std::ptr::with_exposed_provenance_mut::<u8>(pointer);
        // SAFETY: `pointer` without its tag begins `count` writable bytes of this mapping, which nothing else refers to.
        let read = unsafe { libc::read(std::os::fd::AsRawFd::as_raw_fd(stream), buffer.cast(), count) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    fn holds(&self, pointer: usize) -> bool {
        let offset = with_tag(pointer, 0).wrapping_sub(self.base.as_ptr().expose_provenance());
        pointer.is_multiple_of(8) && offset < self.len
    }
}

impl Drop for TaggedMemory {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what `map` got, and no reference into it is ever handed out.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The tag in bits 59:56 of a pointer.
pub fn tag_of(pointer: usize) -> u8 {
    (pointer >> 56) as u8 & 0xf
}

/// The pointer with another tag.
pub fn with_tag(pointer: usize, tag: u8) -> usize {
    pointer & !(0xf << 56) | usize::from(tag & 0xf) << 56
}

/// A random tag by IRG, from those that the thread's include mask allows.
#[cfg(target_arch = "aarch64")]
pub fn random_tag() -> u8 {
    let pointer: usize;
    // SAFETY: IRG computes on registers; callers have seen HWCAP2_MTE.
    unsafe {
        std::arch::asm!(".arch_extension memtag", "irg {p}, {p}", p = inout(reg) 0_usize => pointer,
            options(nomem, nostack, preserves_flags));
    }
    tag_of(pointer)
}

/// # Safety
/// `pointer` without its tag is mapped writable, and the machine has tags.
#[cfg(target_arch = "aarch64")]
unsafe fn store_tag(pointer: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        std::arch::asm!(".arch_extension memtag", "stg {p}, [{p}]", p = in(reg) pointer,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// `pointer` without its tag is mapped readable, and the machine has tags.
#[cfg(target_arch = "aarch64")]
unsafe fn load_tag(pointer: usize) -> usize {
    let mut tagged = pointer;
    // SAFETY: the caller's promise.
    unsafe {
        std::arch::asm!(".arch_extension memtag", "ldg {t}, [{p}]", t = inout(reg) tagged, p = in(reg) pointer,
            options(nostack, preserves_flags, readonly));
    }
    tagged
}

// Other machines never get here: mapping with PROT_MTE fails first.
#[cfg(not(target_arch = "aarch64"))]
#[allow(missing_docs, reason = "as above")]
pub fn random_tag() -> u8 {
    0
}
#[cfg(not(target_arch = "aarch64"))]
unsafe fn store_tag(_pointer: usize) {}
#[cfg(not(target_arch = "aarch64"))]
unsafe fn load_tag(pointer: usize) -> usize {
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_sits_in_bits_56_to_59() {
        assert_eq!(with_tag(0x0012_3456_789a_bcd0, 0xb), 0x0b12_3456_789a_bcd0);
        assert_eq!(tag_of(0xfb12_3456_789a_bcd0), 0xb);
        assert_eq!(with_tag(0x0b12_3456_789a_bcd0, 0), 0x0012_3456_789a_bcd0);
    }
}
