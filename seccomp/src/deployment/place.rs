//! Directories, opened so that no link is followed.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// No link anywhere on a path, those of `/proc` among them.
pub(super) const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory by its path.
pub(super) fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(CWD, path, DIRECTORY, Mode::empty(), NO_LINKS)?)
}

/// Opens a directory in another one, and makes it if it is not there.
pub(super) fn made_below(parent: BorrowedFd<'_>, name: &str, mode: Mode) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat2(parent, name, DIRECTORY, Mode::empty(), NO_LINKS | ResolveFlags::BENEATH)?)
}
