//! AF_VSOCK, which the standard library does not know.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const HOST: u32 = 2;

/// Listens on a port.
pub fn listen(port: u32) -> io::Result<OwnedFd> {
    let (socket, address) = (socket()?, address(libc::VMADDR_CID_ANY, port));
    // SAFETY: the address is a whole sockaddr_vm of the length given.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    // SAFETY: takes two numbers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

/// Waits for the next one who connects.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: without room for an address none is written.
    let accepted = checked(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: the number is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
}

/// Connects to a port of the host.
pub fn connect(port: u32) -> io::Result<OwnedFd> {
    let (socket, address) = (socket()?, address(HOST, port));
    // SAFETY: the address is a whole sockaddr_vm of the length given.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    Ok(socket)
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers.
    let number = checked(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the number is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: plain numbers, for all of which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
