//! An image in memory that all VMs of a user share: loaded by whoever comes first, and never written to again.
//!
//! ```text
//!   fresh ── first comer: lock alone, load, give up writing ──► loaded ── last one goes, a sweeper locks it alone ──► gone
//!     ▲ loader dies: its lock goes, mode is still 0600              │ every user: lock with others, for as long as it lives
//!     └───────────── next comer empties it and loads ───────────────┘
//! ```
//! The locks are those of `flock(2)`, which the kernel gives back however a process ends. Files come open from whoever
//! has the right to the folder; this process sees no path.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::load::{LoadError, is_loaded, load};

/// A cached image as one process has it open.
#[derive(Debug)]
pub struct CacheFile {
    /// Open for reading: what is mapped, and what holds the lock.
    pub reader: File,
    /// Open for writing, if it was not loaded when it was opened. Gone before the jail is entered.
    pub writer: Option<File>,
}

impl CacheFile {
    /// Waits until the image is in memory, loading it if nobody else does, and keeps it there.
    pub fn hold(self, image: &File, size: u64) -> Result<Held, LoadError> {
        if let Some(writer) = self.writer {
            lock(&writer, FlockOperation::LockExclusive)?;
            if !is_loaded(&writer).map_err(LoadError::Memory)? {
                // Whoever died of loading may have left something. The length stays: the file may be mapped already.
                let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&writer, all, 0, size).map_err(|errno| LoadError::Memory(errno.into()))?;
                writer.set_len(size).map_err(LoadError::Memory)?;
                load(image, &writer, size)?;
            }
            lock(&writer, FlockOperation::Unlock)?;
        }
        lock(&self.reader, FlockOperation::LockShared)?;
        if self.reader.metadata().map_err(LoadError::Memory)?.len() != size {
            return Err(LoadError::Memory(io::Error::other("the cached image has another size")));
        }
        Ok(Held(self.reader))
    }
}

/// A cached image that stays until this is dropped.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "holds the lock")] File);

fn lock(file: &File, operation: FlockOperation) -> Result<(), LoadError> {
    rustix::io::retry_on_intr(|| flock(file, operation)).map_err(|errno| LoadError::Memory(errno.into()))
}
