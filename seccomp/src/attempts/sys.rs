//! Raw system calls of the attempts.
//!
//! Arguments are numbers, static strings, or addresses of memory that [`memory`] and [`words`] leak for the purpose: no
//! call can write to memory that other code relies on.

use std::ffi::CStr;
use std::io;

use crate::arch::Arch;
use crate::call::{Call, MEMFD_CREATE, SOCKET};
use crate::rule::Rule;

/// What some attempts are made on, and what the jail would not give: gathered before it is entered.
#[derive(Debug)]
pub struct Tools {
    pub(super) socket: u64,
    pub(super) memfd: u64,
}

impl Tools {
    /// Makes a TCP socket and a memfd.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn gather() -> io::Result<Self> {
        let descriptor = |made: libc::c_long| u64::try_from(made).map_err(io::Error::other);
        let socket = descriptor(raw(SOCKET, &[2, 1, 0])?)?;
        let memfd = descriptor(raw(MEMFD_CREATE, &[text(c"attempt"), 0])?)?;
        Ok(Self { socket, memfd })
    }
}

/// A page, so that `mprotect` of it touches nothing else.
#[repr(C, align(4096))]
struct Page([u64; 512]);

/// Makes the call and drops its result, which is a leaked descriptor or nothing.
pub(super) fn call(call: Call, arguments: &[u64]) -> io::Result<()> {
    raw(call, arguments).map(drop)
}

/// Makes the call that a line is an example of.
///
/// # Errors
/// What the kernel answers, where the line did not refuse it: its arguments are of no use to it.
pub fn provoke(rule: &Rule) -> io::Result<()> {
    call(rule.call, &rule.example())
}

/// Makes a call that may return twice; the second process ends at once.
pub(super) fn by_fork(call: Call, arguments: &[u64]) -> io::Result<()> {
    let child = raw(call, arguments)? == 0;
    if child {
        // SAFETY: ends the new process without running anything of ours.
        unsafe { libc::_exit(0) };
    }
    Ok(())
}

fn raw(call: Call, arguments: &[u64]) -> io::Result<libc::c_long> {
    let number = libc::c_long::from(call.number(Arch::NATIVE).ok_or(io::ErrorKind::Unsupported)?);
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    let [a, b, c, d, e, f] = std::array::from_fn(argument);
    // SAFETY: see the module's documentation; the kernel checks every address it is given.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The address of a fresh page of zeros.
pub(super) fn memory() -> u64 {
    std::ptr::from_mut(Box::leak(Box::new(Page([0; 512])))) as u64
}

/// The address of a copy of these words.
pub(super) fn words(words: &[u64]) -> u64 {
    Box::leak(words.to_vec().into_boxed_slice()).as_mut_ptr() as u64
}

/// The address of a static string.
pub(super) fn text(text: &'static CStr) -> u64 {
    text.as_ptr() as u64
}

/// `sockaddr_in` of 127.0.0.1, port 9.
pub(super) fn address() -> u64 {
    words(&[u64::from_ne_bytes([2, 0, 0, 9, 127, 0, 0, 1]), 0])
}

pub(super) fn parent() -> u64 {
    u64::from(std::os::unix::process::parent_id())
}
