//! userfaultfd, as far as the rules need it (linux/userfaultfd.h).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use super::sys::{Answer, PAGE, errno};

pub const MISSING: u64 = 1;
pub const MINOR: u64 = 1 << 2;
/// The flag of an event: the page is in the file, but not in this mapping.
pub const EVENT_MINOR: u64 = 1 << 2;

const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03_u32 as libc::Ioctl;
const UFFDIO_CONTINUE: libc::Ioctl = 0xc020_aa07_u32 as libc::Ioctl;
const API: u64 = 0xaa;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const USER_MODE_ONLY: i32 = 1;

#[repr(C)]
struct Registration {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Continue {
    start: u64,
    length: u64,
    mode: u64,
    mapped: i64,
}

#[repr(C)]
struct Copy {
    destination: u64,
    source: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// A page that somebody waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub address: u64,
    pub flags: u64,
}

/// One userfaultfd; closing it lets all who wait go on.
pub struct Uffd(File);

impl Uffd {
    /// One that sees the kernel's faults too, as those of guests are.
    pub fn new() -> Self {
        Self::with(0)
    }

    /// One that sees only those of user space, as a process without privileges gets it.
    pub fn user_mode_only() -> Self {
        Self::with(USER_MODE_ONLY)
    }

    fn with(flags: i32) -> Self {
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
        assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        let mut api = [API, FEATURE_MINOR_SHMEM, 0];
        // SAFETY: three words, as the kernel wants them.
        assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) }, 0);
        Self(file)
    }

    pub fn register(&self, at: *mut u8, length: usize, mode: u64) {
        let mut request = Registration { start: at as u64, length: length as u64, mode, ioctls: 0 };
        // SAFETY: the range is a mapping of this process; who touches it waits from now on.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut request) };
        assert_eq!(done, 0, "UFFDIO_REGISTER: {}", std::io::Error::last_os_error());
    }

    /// Waits until somebody waits for a page.
    pub fn fault(&self) -> Fault {
        const PAGEFAULT: u8 = 0x12;
        let mut event = [0_u8; 32];
        assert_eq!((&self.0).read(&mut event).expect("an event"), event.len());
        assert_eq!(event[0], PAGEFAULT);
        let word = |at: usize| u64::from_le_bytes(event[at..at + 8].try_into().expect("eight bytes"));
        Fault { flags: word(8), address: word(16) & !(PAGE as u64 - 1) }
    }

    /// Maps the page as it is in the file, and wakes who waits.
    pub fn resume(&self, at: *mut u8) -> Answer<()> {
        let mut request = Continue { start: at as u64, length: PAGE as u64, mode: 0, mapped: 0 };
        // SAFETY: a page of a registered mapping.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_CONTINUE, &raw mut request) };
        if done == 0 { Ok(()) } else { Err(errno()) }
    }

    /// Makes the page a copy of another, and wakes who waits.
    pub fn copy(&self, at: *mut u8, source: *const u8) -> Answer<()> {
        let mut request =
            Copy { destination: at as u64, source: source as u64, length: PAGE as u64, mode: 0, copied: 0 };
        // SAFETY: a page of a registered mapping, and a page of another.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, &raw mut request) };
        if done == 0 { Ok(()) } else { Err(errno()) }
    }
}
