//! The socket that clients connect to: made here at a path, or handed over by whoever started the process.
//!
//! A socket made here is for its owner only (mode 0700), takes the place of one that nobody serves any more, never that
//! of one that somebody does, and is removed at the end if it is still the one that was made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, fchmod, flock, lstat, open, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};
use tokio::net::{UnixListener, UnixStream};

/// The longest path that a Unix socket's address has room for, its NUL aside.
pub const MAX_SOCKET_PATH: usize = 107;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The API socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit into a socket's address.
    #[error(
        "{path}: the path is {length} bytes long, a socket address takes {MAX_SOCKET_PATH}; use a shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// There is no path.
    #[error("the path of the API socket is empty")]
    Empty,
    /// Another process serves it.
    #[error("{0}: in use by another process")]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{0}: exists and is not a socket; it is left as it is")]
    NotASocket(PathBuf),
    /// The descriptor that was handed over is of another kind.
    #[error("file descriptor {fd} is not a listening Unix stream socket")]
    NotListening {
        /// Its number.
        fd: i32,
    },
    /// A system call failed.
    #[error("{path}: {action}")]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A listening API socket.
#[derive(Debug)]
pub struct Listener {
    /// The file that is to be removed; none if the socket came from elsewhere. First, for it is removed while the
    /// socket still holds its inode: no other file can have that number then.
    _file: Option<SocketFile>,
    socket: UnixListener,
}

/// A socket's file, known again by its inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Makes the socket and listens on it. To be called in the context of a tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind then.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let length = path.as_os_str().len();
        if length == 0 {
            return Err(ListenError::Empty);
        }
        if length > MAX_SOCKET_PATH {
            return Err(ListenError::TooLong { path: path.to_owned(), length });
        }
        let failed = |action| {
            move |error: Errno| ListenError::System { path: path.to_owned(), action, source: error.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("not a socket's path"))?;
        let socket = stream_socket().map_err(failed("cannot make a socket"))?;
        // Linux gives the file the mode that the socket had before it was bound: no umask, so no race about one.
        fchmod(&socket, Mode::RWXU).map_err(failed("cannot set the socket's mode"))?;
        match bind(&socket, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => replace(path, &address, &socket)?,
            Err(error) => return Err(failed("cannot bind the API socket")(error)),
        }
        let stat = lstat(path).map_err(failed("cannot look at the API socket"))?;
        // Removed again if anything below fails.
        let file = SocketFile {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        listen(&socket, BACKLOG).map_err(failed("cannot listen on the API socket"))?;
        let socket = into_tokio(socket).map_err(|source| ListenError::System {
            path: path.to_owned(),
            action: "cannot poll the API socket",
            source,
        })?;
        Ok(Self { _file: Some(file), socket })
    }

    /// Takes a socket that already listens. Its file, if it has one, belongs to whoever made it.
    ///
    /// # Errors
    /// Where it is no such socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let is = |found: Result<bool, Errno>| found.unwrap_or(false);
        if !is(sockopt::socket_acceptconn(&fd))
            || !is(sockopt::socket_domain(&fd).map(|domain| domain == AddressFamily::UNIX))
            || !is(sockopt::socket_type(&fd).map(|kind| kind == SocketType::STREAM))
        {
            return Err(ListenError::NotListening { fd: number });
        }
        // Children are started with a list of descriptors; this is not on it.
        let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
        let socket = into_tokio(fd).map_err(|_| ListenError::NotListening { fd: number })?;
        Ok(Self { _file: None, socket })
    }

    /// Waits for the next client.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn into_tokio(socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = StdListener::from(socket);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Takes the place of a socket that nobody serves.
fn replace(path: &Path, address: &SocketAddrUnix, socket: impl AsFd) -> Result<(), ListenError> {
    let failed = |action| {
        move |error: Errno| ListenError::System { path: path.to_owned(), action, source: error.into() }
    };
    // Two processes that find the same dead socket must not remove each other's new one.
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().as_bytes().is_empty()).unwrap_or(Path::new("."));
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("cannot open the API socket's folder"))?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ListenError::InUse(path.to_owned()))?;
    let stat = lstat(path).map_err(failed("cannot look at the API socket"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    let probe = stream_socket().map_err(failed("cannot make a socket"))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {}
        // Connected, or its queue is full: somebody is there.
        Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::InUse(path.to_owned())),
        Err(error) => return Err(failed("cannot find out whether the API socket is in use")(error)),
    }
    unlinkat(CWD, path, rustix::fs::AtFlags::empty()).map_err(failed("cannot remove the dead API socket"))?;
    bind(&socket, address).map_err(failed("cannot bind the API socket"))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            lstat(&self.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode));
        if ours {
            // Gone already is as good.
            let _ = unlinkat(CWD, &self.path, rustix::fs::AtFlags::empty());
        }
    }
}
