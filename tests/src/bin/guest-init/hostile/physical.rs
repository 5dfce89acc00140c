//! Device registers and memory of known physical addresses: the only unsafe module of the hostile guest.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A mapping that is accessed a register at a time.
pub struct Window {
    base: NonNull<u8>,
    size: usize,
}

impl Window {
    /// Maps `size` bytes of a file from `offset` on: a BAR, or physical memory.
    pub fn file(path: &str, offset: u64, size: usize) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| format!("{path}: {error}"))?;
        Self::map(libc::MAP_SHARED, file.as_raw_fd(), offset, size)
            .map_err(|error| format!("{path}: {error}"))
    }

    fn map(flags: i32, fd: i32, offset: u64, size: usize) -> std::io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, fd, offset as libc::off_t) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, size })
    }

    /// Reads 1, 2, 4 or 8 bytes at an aligned offset.
    pub fn read(&self, at: usize, width: usize) -> u64 {
        let place = self.place(at, width);
        // SAFETY: the place lies within the mapping and is aligned; every bit pattern is a number.
        unsafe {
            match width {
                1 => place.read_volatile().into(),
                2 => place.cast::<u16>().read_volatile().into(),
                4 => place.cast::<u32>().read_volatile().into(),
                _ => place.cast::<u64>().read_volatile(),
            }
        }
    }

    /// Writes 1, 2, 4 or 8 bytes at an aligned offset.
    pub fn write(&self, at: usize, width: usize, value: u64) {
        let place = self.place(at, width);
        // SAFETY: the place lies within the mapping, which no Rust object shares, and is aligned.
        unsafe {
            match width {
                1 => place.write_volatile(value as u8),
                2 => place.cast::<u16>().write_volatile(value as u16),
                4 => place.cast::<u32>().write_volatile(value as u32),
                _ => place.cast::<u64>().write_volatile(value),
            }
        }
    }

    fn place(&self, at: usize, width: usize) -> *mut u8 {
        assert!(at + width <= self.size && at.is_multiple_of(width), "{at:#x}, {width} bytes");
        self.base.as_ptr().wrapping_add(at)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

/// A page of memory that stays where it is.
pub struct Page {
    window: Window,
    address: u64,
}

impl Page {
    /// Takes a page and finds out where it is.
    pub fn new() -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE;
        let window = Window::map(flags, -1, 0, PAGE).map_err(|error| format!("a page: {error}"))?;
        window.write(0, 8, 0);
        let address = physical(window.base.as_ptr().addr())?;
        Ok(Self { window, address })
    }

    /// Its physical address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Window {
        &self.window
    }
}

/// Documentation/admin-guide/mm/pagemap.rst: bits 0 to 54 of an entry are the page's number.
fn physical(address: usize) -> Result<u64, String> {
    let mut entry = [0; 8];
    let map = File::open("/proc/self/pagemap").map_err(|error| format!("pagemap: {error}"))?;
    map.read_exact_at(&mut entry, (address / PAGE * 8) as u64)
        .map_err(|error| format!("pagemap: {error}"))?;
    match u64::from_le_bytes(entry) & ((1 << 55) - 1) {
        0 => Err("pagemap does not tell where pages are".to_owned()),
        number => Ok(number * PAGE as u64),
    }
}
