//! Connecting to the socket of another program, without ever waiting for it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How long a program may take to be there and to accept us.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The field that names it, as in `fs[0].socket`.
    pub field: String,
    /// Its path.
    pub path: PathBuf,
}

/// Nobody could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{field}: nobody serves {path:?}, or does not accept a connection")]
pub struct ConnectError {
    field: String,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Connections by the field that names their socket.
#[derive(Debug, Default)]
pub struct Connections(HashMap<String, OwnedFd>);

impl Connections {
    /// The connection to `target`, which is made now if it was not made before.
    pub fn take(&mut self, target: &Target) -> Result<OwnedFd, ConnectError> {
        match self.0.remove(&target.field) {
            Some(socket) => Ok(socket),
            None => attempt(target).map_err(|error| failed(target, error)),
        }
    }
}

/// Connects to all of `targets`.
pub async fn connect_all(targets: Vec<Target>) -> Result<Connections, ConnectError> {
    let mut connections = HashMap::new();
    for target in targets {
        let socket = patiently(&target).await?;
        connections.insert(target.field, socket);
    }
    Ok(Connections(connections))
}

/// Connects within the limit: the program may have been started together with us, or be busy with another connection.
async fn patiently(target: &Target) -> Result<OwnedFd, ConnectError> {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match attempt(target) {
            Ok(socket) => return Ok(socket),
            Err(Errno::AGAIN | Errno::NOENT | Errno::CONNREFUSED) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(failed(target, error)),
        }
    }
}

/// Connects now or not at all.
pub(super) fn attempt(target: &Target) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(&target.path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    // `machine` waits for answers, each for a limited time.
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

fn failed(target: &Target, error: Errno) -> ConnectError {
    ConnectError { field: target.field.clone(), path: target.path.clone(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("granule-outside-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_program_that_comes_a_little_late_is_waited_for() {
        let path = folder().join("late.sock");
        let _ = std::fs::remove_file(&path);
        let target = Target { field: "fs[0].socket".into(), path: path.clone() };
        let connected = run(async {
            let late = tokio::spawn(async move {
                tokio::time::sleep(PAUSE * 2).await;
                UnixListener::bind(path).unwrap()
            });
            let connections = connect_all(vec![target.clone()]).await;
            drop(late.await.unwrap());
            connections
        });
        assert!(connected.unwrap().take(&target).is_ok());
    }

    #[test]
    fn a_full_backlog_and_an_absent_program_are_told_by_the_field() {
        let path = folder().join("full.sock");
        let _ = std::fs::remove_file(&path);
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let full = Target { field: "fs[1].socket".into(), path };
        let waiting = attempt(&full).unwrap();
        let absent = Target { field: "fs[2].socket".into(), path: folder().join("absent.sock") };
        for target in [full, absent] {
            let error = run(connect_all(vec![target.clone()])).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{}: nobody serves", target.field)), "{error}");
        }
        drop(waiting);
    }
}
