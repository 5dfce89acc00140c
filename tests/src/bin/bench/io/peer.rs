//! The host's end of network and socket: takes bytes, or gives them.
//!
//! A connection begins with `T` (the host takes) or `G` (the host gives) and the number of bytes, little endian; when all of
//! them are taken the host says so by one byte.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread;

use granule_tests::vsock;

use super::PORT;

/// Bytes that are moved at once.
const CHUNK: usize = 1 << 17;

/// Serves, until the program ends, by TCP, by vsock, and by the Unix socket in whose place vsock comes out of granule.
pub fn listen(socket: &str) -> io::Result<()> {
    let tcp = TcpListener::bind(("0.0.0.0", PORT as u16))?;
    let unix = UnixListener::bind(format!("{socket}_{PORT}"))?;
    let vsock = vsock::listen(PORT)?;
    serve(move || tcp.accept().map(|(stream, _)| stream.into()));
    serve(move || unix.accept().map(|(stream, _)| stream.into()));
    serve(move || vsock::accept(&vsock));
    Ok(())
}

fn serve(accept: impl Fn() -> io::Result<OwnedFd> + Send + 'static) {
    thread::spawn(move || {
        while let Ok(stream) = accept() {
            // Whoever asked finds out by the end of the stream.
            thread::spawn(|| move_bytes(File::from(stream)));
        }
    });
}

fn move_bytes(mut stream: File) -> io::Result<()> {
    let mut order = [0; 9];
    stream.read_exact(&mut order)?;
    let mut left = order[1..].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let most = left.min(CHUNK as u64) as usize;
        let moved = match order[0] {
            b'G' => stream.write(&chunk[..most])?,
            _ => stream.read(&mut chunk[..most])?,
        };
        if moved == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= moved as u64;
    }
    if order[0] == b'G' { Ok(()) } else { stream.write_all(b"!") }
}
