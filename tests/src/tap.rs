//! Taps that a runtime has opened and passes on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

// linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;

/// Opens a tap of this name, one descriptor for each pair of queues, as Kata Containers' runtimes do.
///
/// # Errors
/// Where the host does not let us.
pub fn open(name: &str, pairs: usize) -> io::Result<Vec<OwnedFd>> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if pairs > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    (0..pairs).map(|_| queue(name, flags).map(OwnedFd::from)).collect()
}

/// Gives the host's end an address and switches it on.
///
/// # Panics
/// If busybox refuses.
pub fn switch_on(name: &str, address: &str) {
    let words = [name, address, "netmask", "255.255.255.0", "up"];
    let output = Command::new(crate::lab::busybox()).arg("ifconfig").args(words).output();
    let output = output.expect("busybox is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn queue(name: &str, flags: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: plain numbers and a union of numbers and pointers that nobody follows, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which this is.
    let result = unsafe {
        libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(TUNSETIFF), std::ptr::from_mut(&mut request))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
