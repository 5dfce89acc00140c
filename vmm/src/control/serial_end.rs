//! The host's end of the serial port: opened here, used by `machine`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::driver::Event;
use super::vm::SerialEnd;

/// Why the host's end could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// No pseudo-terminal.
    #[error("serial: cannot open a pseudo-terminal")]
    Pty(#[source] io::Error),
    /// No socket.
    #[error("serial.socket: cannot listen on {path:?}")]
    Socket {
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A pseudo-terminal: our side for the guest, what keeps it up, and the path for whoever wants to talk to the guest.
pub fn pty() -> Result<(OwnedFd, SerialEnd, PathBuf), SerialError> {
    let (ours, second, path) = open_pty().map_err(SerialError::Pty)?;
    Ok((ours, SerialEnd::Pty { _second: second }, path))
}

/// A pseudo-terminal: both its sides, and the path of the second.
pub fn open_pty() -> io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let second = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    // Without echo and line discipline: those are the guest's business, and an echo would be read as its input.
    let mut attributes = tcgetattr(&second)?;
    attributes.make_raw();
    tcsetattr(&second, OptionalActions::Now, &attributes)?;
    let path = PathBuf::from(name.into_string().map_err(|_| io::ErrorKind::InvalidData)?);
    Ok((ours, second, path))
}

/// A listening socket whose clients are handed to the driver, one at a time.
pub fn socket(path: &Path, post: mpsc::UnboundedSender<Event>) -> Result<SerialEnd, SerialError> {
    let failed = |source| SerialError::Socket { path: path.into(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    let listen = || {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener.try_clone()?)
    };
    let acceptor = match listen() {
        Ok(listener) => tokio::spawn(accept(listener, post)),
        Err(error) => {
            // Bound by us a moment ago; nothing half-made stays.
            let _ = std::fs::remove_file(path);
            return Err(failed(error));
        }
    };
    Ok(SerialEnd::Socket { acceptor, path: path.into() })
}

async fn accept(listener: tokio::net::UnixListener, post: mpsc::UnboundedSender<Event>) {
    while let Ok((client, _)) = listener.accept().await {
        // The machine's side blocks in poll, not in the socket.
        let Ok(client) = client.into_std().and_then(|client| client.set_nonblocking(false).map(|()| client))
        else {
            continue;
        };
        if post.send(Event::SerialClient(client.into())).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_pty_carries_bytes_both_ways_unechoed() {
        let (ours, _end, path) = pty().unwrap();
        let mut ours = std::fs::File::from(ours);
        let mut theirs = std::fs::File::options().read(true).write(true).open(path).unwrap();
        ours.write_all(b"login: ").unwrap();
        let mut seen = [0; 7];
        theirs.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"login: ");
        theirs.write_all(b"me\n").unwrap();
        let mut seen = [0; 3];
        ours.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"me\n");
    }
}
