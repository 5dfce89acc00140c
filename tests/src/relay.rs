//! Stands between a vhost-user front end and a program that serves, and hides something that the program can do.
//!
//! ```text
//!   granule ◄──► Relay ◄──► program         one thread for each direction of each connection; descriptors are passed on
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// VHOST_USER_PROTOCOL_F_DEVICE_STATE.
pub const DEVICE_STATE: u64 = 1 << 19;

const GET_PROTOCOL_FEATURES: u32 = 15;
const HEADER: usize = 12;
/// More than any message has.
const BYTES: usize = 4096;
const FDS: usize = 32;

/// Listens on `socket` and passes each connection on to `program`, which seems not to have these protocol features.
///
/// # Panics
/// If it cannot listen.
pub fn hide(features: u64, program: &str, socket: &str) {
    let listener = UnixListener::bind(socket).unwrap_or_else(|e| panic!("{socket}: {e}"));
    let program = program.to_owned();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for front in listener.incoming().map_while(Result::ok) {
            let Ok(back) = UnixStream::connect(&program) else { continue };
            let Ok((answers, asker)) = back.try_clone().and_then(|back| Ok((back, front.try_clone()?)))
            else {
                continue;
            };
            std::thread::spawn(move || pass_on(&front, &back, 0));
            std::thread::spawn(move || pass_on(&answers, &asker, features));
        }
    });
}

/// Until one of them is gone. Who answers does it with one call, and is asked no more before that is read: so what is
/// received is a whole message.
fn pass_on(from: &UnixStream, to: &UnixStream, hidden: u64) {
    while let Ok((mut message, fds)) = receive(from) {
        if message.is_empty() {
            break;
        }
        if let Some((head, features)) = message.split_at_mut_checked(HEADER)
            && head.starts_with(&GET_PROTOCOL_FEATURES.to_le_bytes())
            && let Some(features) = features.first_chunk_mut::<8>()
        {
            *features = (u64::from_le_bytes(*features) & !hidden).to_le_bytes();
        }
        if send(to, &message, &fds).is_err() {
            break;
        }
    }
    // The other is gone, or hears of it now.
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

fn receive(from: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    bytes.truncate(received.bytes);
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((bytes, fds.flatten().collect()))
}

fn send(to: &UnixStream, mut bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    while !bytes.is_empty() {
        let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        // They went with the first byte.
        ancillary.clear();
        bytes = &bytes[sent..];
    }
    Ok(())
}
