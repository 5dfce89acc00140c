//! The calls of userfaultfd(2), `ioctl_userfaultfd(2)`; linux/userfaultfd.h, Linux 6.12.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::Continued;

const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::Ioctl = 0x8010_aa01;
const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02;
const UFFDIO_CONTINUE: libc::Ioctl = 0xc020_aa07;

const API: u64 = 0xaa;
const MISSING_SHMEM: u64 = 1 << 5;
const MINOR_SHMEM: u64 = 1 << 10;
const MODE_MISSING: u64 = 1;
const MODE_MINOR: u64 = 4;
/// `UFFD_EVENT_PAGEFAULT`.
const PAGEFAULT: u8 = 0x12;
/// Faults read at a time.
const FEW: usize = 16;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    length: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioContinue {
    range: UffdioRange,
    mode: u64,
    mapped: i64,
}

/// `struct uffd_msg` with the argument of a page fault.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    feature: u64,
}

fn range(addresses: Range<u64>) -> UffdioRange {
    UffdioRange { start: addresses.start, length: addresses.end.saturating_sub(addresses.start) }
}

/// # Safety
/// `argument` is the structure that the request is defined with.
unsafe fn call<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the caller says that the kernel reads and writes at most this structure.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn open(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes flags, by value, and answers a new descriptor.
    let fd =
        unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn agree(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut api = UffdioApi { api: API, features: MISSING_SHMEM | MINOR_SHMEM, ioctls: 0 };
    // SAFETY: this is the request's structure.
    unsafe { call(fd, UFFDIO_API, &mut api) }
}

pub(super) fn register(fd: BorrowedFd<'_>, addresses: Range<u64>) -> io::Result<()> {
    let mode = MODE_MISSING | MODE_MINOR;
    let mut register = UffdioRegister { range: range(addresses), mode, ioctls: 0 };
    // SAFETY: this is the request's structure.
    unsafe { call(fd, UFFDIO_REGISTER, &mut register) }
}

pub(super) fn unregister(fd: BorrowedFd<'_>, addresses: Range<u64>) -> io::Result<()> {
    // SAFETY: this is the request's structure.
    unsafe { call(fd, UFFDIO_UNREGISTER, &mut range(addresses)) }
}

pub(super) fn wake(fd: BorrowedFd<'_>, addresses: Range<u64>) -> io::Result<()> {
    // SAFETY: this is the request's structure.
    unsafe { call(fd, UFFDIO_WAKE, &mut range(addresses)) }
}

pub(super) fn proceed(fd: BorrowedFd<'_>, addresses: Range<u64>) -> io::Result<Continued> {
    let length = addresses.end.saturating_sub(addresses.start);
    let mut request = UffdioContinue { range: range(addresses), mode: 0, mapped: 0 };
    // SAFETY: this is the request's structure.
    let done = unsafe { call(fd, UFFDIO_CONTINUE, &mut request) };
    match done.map_err(|error| (Errno::from_io_error(&error), error)) {
        Ok(()) => Ok(Continued::Mapped(length)),
        // A part of it, or the address space was changing just then: then it is to be tried again.
        Err((Some(Errno::AGAIN), _)) => Ok(Continued::Mapped(u64::try_from(request.mapped).unwrap_or(0))),
        Err((Some(Errno::EXIST), _)) => Ok(Continued::Before),
        Err((Some(Errno::FAULT), _)) => Ok(Continued::Hole),
        Err((Some(Errno::SRCH | Errno::NOENT), _)) => Ok(Continued::Gone),
        Err((_, error)) => Err(error),
    }
}

pub(super) fn faults(fd: BorrowedFd<'_>, addresses: &mut Vec<u64>) -> io::Result<()> {
    let none = Message { event: 0, reserved: [0; 7], flags: 0, address: 0, feature: 0 };
    let mut messages = [none; FEW];
    let size = std::mem::size_of_val(&messages);
    // SAFETY: the buffer is as long as is said, and any bytes are such messages.
    let read = unsafe { libc::read(fd.as_raw_fd(), messages.as_mut_ptr().cast(), size) };
    let Ok(read) = usize::try_from(read) else {
        let error = io::Error::last_os_error();
        let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        return if none { Ok(()) } else { Err(error) };
    };
    let whole = &messages[..read / std::mem::size_of::<Message>()];
    addresses.extend(whole.iter().filter(|each| each.event == PAGEFAULT).map(|each| each.address));
    Ok(())
}

/// One that sees faults of this process's own instructions only, which everyone may have.
#[cfg(test)]
pub(super) fn open_for_own_instructions() -> io::Result<OwnedFd> {
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: the call takes flags and answers a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
