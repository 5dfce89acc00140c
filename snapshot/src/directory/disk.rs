//! What a snapshot's writer asks of a file system, so that a test can be one that crashes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::file::WriteAt;

/// What a rename does with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replaces a file.
    Replace,
    /// Fails if there is something.
    New,
    /// The two change places.
    Exchange,
}

/// A file system.
pub trait Disk {
    /// An open file.
    type File: WriteAt;
    /// Holds a directory's lock until dropped.
    type Lock;

    /// The names in a directory; `None` if there is no such directory.
    ///
    /// # Errors
    /// Of the file system.
    fn list(&self, directory: &Path) -> io::Result<Option<Vec<String>>>;

    /// Makes a directory that is not there.
    ///
    /// # Errors
    /// Of the file system.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Makes a file that is not there, to be read and written.
    ///
    /// # Errors
    /// Of the file system.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Locks a directory; `None` if another writer has it.
    ///
    /// # Errors
    /// Of the file system.
    fn lock(&self, directory: &Path) -> io::Result<Option<Self::Lock>>;

    /// Renames a file or a directory.
    ///
    /// # Errors
    /// Of the file system.
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Of the file system.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;

    /// Returns once the names in a directory will outlive a power cut.
    ///
    /// # Errors
    /// Of the file system.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// Whether there is nothing of this name.
fn is_missing(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// The file system of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    type File = File;
    type Lock = File;

    fn list(&self, directory: &Path) -> io::Result<Option<Vec<String>>> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect::<io::Result<_>>().map(Some)
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    fn lock(&self, directory: &Path) -> io::Result<Option<File>> {
        let opened = File::open(directory)?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(opened)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        let rename = |flags| renameat_with(CWD, from, CWD, to, flags);
        match how {
            Rename::Replace => Ok(rename(RenameFlags::empty())?),
            Rename::New => match rename(RenameFlags::NOREPLACE) {
                // 9p, NFS and others know no flags. Nobody but us makes a file of this name here: looking first is enough.
                Err(Errno::INVAL) if is_missing(to)? => Ok(rename(RenameFlags::empty())?),
                renamed => Ok(renamed?),
            },
            Rename::Exchange => match rename(RenameFlags::EXCHANGE) {
                Err(Errno::INVAL) => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this file system cannot replace a directory in one go; write to a new one",
                )),
                renamed => Ok(renamed?),
            },
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}
