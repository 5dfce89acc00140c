//! What the device has: a medium that the guest's stores have to reach. There is nothing to save, since a flush that
//! was not answered is asked for again.

use std::fs::File;
use std::io;

use super::writeback::WriteBack;

/// Where the guest's stores have to be when a flush is answered.
#[derive(Debug)]
pub enum Medium {
    /// The memory is a mapping of this file, so that its pages are the file's.
    Mapped(File),
    /// The memory is a copy of the file, which is brought up to date at every flush.
    Copied(WriteBack),
    /// Nowhere: the memory is read-only, or what is written to it is the guest's own affair.
    None,
}

impl Medium {
    /// Does some of the work of a flush; answers how the flush ended, if it did.
    pub(super) fn flush_some(&mut self) -> Option<io::Result<()>> {
        match self {
            Self::Mapped(file) => Some(sync(file)),
            Self::Copied(copy) => copy.flush_some(),
            Self::None => Some(Ok(())),
        }
    }

    /// Forgets the flush that is under way.
    pub(super) fn abandon(&mut self) {
        if let Self::Copied(copy) = self {
            copy.abandon();
        }
    }
}

/// Has what was written to the file reach the disk.
pub(super) fn sync(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fdatasync(file))?)
}
