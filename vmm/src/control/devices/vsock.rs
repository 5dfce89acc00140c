//! `vsock`: listens for programs of the host, and connects to them for the guest.
//!
//! The process of the device has the listener and one end of a pair of sockets. At the other end a task of ours, the
//! broker, connects to `SOCKET_port` for each port that the process names, and passes the connection on: the process
//! chooses the number and nothing else. The driver has no part in it, and nothing here blocks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use granule_api::config::{VmConfig, Vsock};
use granule_devices::vsock::{Answer, QUEUE_SIZES, Wish};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::{Argument, Ids, PlanError, Planned, Recipe, ids};
use crate::wire::DeviceKind;

/// How many connections the broker makes in a row.
const BURST: u32 = 256;
/// And how long it takes at least for them: a guest that does nothing else does not take a processor of ours.
const PACE: Duration = Duration::from_millis(100);

pub(super) fn plan(config: &mut VmConfig, checked: &Vsock, ids: &mut Ids) -> Result<Planned, PlanError> {
    let taken = ids::taken(config);
    let raw = config.vsock.get_or_insert_default();
    let id = raw.id.get_or_insert_with(|| ids.give("_vsock", &taken)).clone();
    let failed = |source| PlanError::Listen { field: "vsock.socket", path: checked.socket.clone(), source };
    let (listener, file) = listen(&checked.socket).map_err(failed)?;
    let (theirs, ours) = broker_pair().map_err(failed)?;
    let broker = Broker(tokio::spawn(serve(ours, checked.socket.clone())));
    let arguments = vec![
        Argument::Text("--cid".into()),
        Argument::Text(checked.cid.to_string()),
        Argument::Fd("--listener-fd", listener.into()),
        Argument::Fd("--broker-fd", theirs),
        Argument::Kept(Box::new((file, broker))),
    ];
    Ok(Planned {
        recipe: Recipe { id, kind: DeviceKind::Vsock, arguments },
        place: checked.place,
        queue_sizes: QUEUE_SIZES.to_vec(),
        memory: None,
    })
}

/// The file of a listening socket, removed when its device goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A client of libvirt or Kata may have been faster.
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = ?self.0, %error, "the vsock socket could not be removed");
        }
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

fn broker_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The task that connects; it ends with its device.
#[derive(Debug)]
struct Broker(JoinHandle<()>);

impl Drop for Broker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(device: OwnedFd, base: PathBuf) {
    if let Err(error) = answer_wishes(device, &base).await {
        tracing::warn!(%error, "no more connections are made for the guest");
    }
}

async fn answer_wishes(device: OwnedFd, base: &Path) -> io::Result<()> {
    // SAFETY: the registration owns this descriptor and gives it to nobody, so it stays the same file until it is dropped.
    let device = unsafe { AsyncFd::register_with_interest(device, Interest::READABLE | Interest::WRITABLE)? };
    loop {
        let began = tokio::time::Instant::now();
        for _ in 0..BURST {
            let received =
                device.async_io(Interest::READABLE, |device| Wish::receive(device.as_fd())).await?;
            let Some(wish) = received else { return Ok(()) };
            let answer = Answer { wish, stream: connect_to(base, wish.port) };
            device.async_io(Interest::WRITABLE, |device| answer.send(device.as_fd())).await?;
        }
        tokio::time::sleep_until(began + PACE).await;
    }
}

/// Connects to whoever listens for `port`. A Unix socket connects at once or not at all: where its queue is full, this
/// fails instead of waiting.
fn connect_to(base: &Path, port: u32) -> io::Result<OwnedFd> {
    let mut path = base.as_os_str().as_bytes().to_vec();
    path.extend(format!("_{port}").bytes());
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &address)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_broker_connects_to_the_port_that_is_named_and_says_why_it_cannot() {
        let folder = std::env::temp_dir().join(format!("granule-broker-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let base = folder.join("v.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = UnixListener::bind(folder.join("v.sock_1025")).unwrap();
            let (theirs, ours) = broker_pair().unwrap();
            let _broker = Broker(tokio::spawn(serve(ours, base)));
            // SAFETY: as in `answer_wishes`.
            let theirs = unsafe { AsyncFd::register(theirs).unwrap() };
            for (tag, port) in [(7, 1025), (8, 1026)] {
                Wish { tag, port }.send(theirs.get_ref().as_fd()).unwrap();
                let answer = theirs
                    .async_io(Interest::READABLE, |theirs| Answer::receive(theirs.as_fd()))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(answer.wish, Wish { tag, port });
                match answer.stream {
                    Ok(stream) => {
                        assert_eq!(port, 1025);
                        std::fs::File::from(stream).write_all(b"x").unwrap();
                        server.accept().unwrap().0.read_exact(&mut [0]).unwrap();
                    }
                    Err(error) => {
                        assert_eq!((port, error.raw_os_error()), (1026, Some(libc::ENOENT)));
                    }
                }
            }
        });
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_socket_file_that_is_there_is_refused_and_ours_is_removed() {
        let path = std::env::temp_dir().join(format!("granule-vsock-{}", std::process::id()));
        let (listener, file) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop((listener, file));
        assert!(!path.exists());
    }
}
