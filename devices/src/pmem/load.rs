//! Fills memory with an image.
//!
//! ```text
//!   new file, its owner may write ── filled ──► its owner may not (mode 0400) = loaded
//! ```
//! The mode is how a successor, or another VM, knows that there is nothing to do: it changes last, and in one step.
//! Loading ends before the jail is entered and before a byte is served, and does nothing with what it reads but copy it.
//!
//! Memory is filled through a mapping, never by writing to the file: a mapping of this process has no huge pages
//! (docs/kernel-hazards.md, "Bug B").

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// What is looked at at once; where it is all zeros, memory stays a hole.
const BLOCK: usize = 64 << 10;
const PAGE: usize = 4096;
/// Mode of a file that is loaded.
const LOADED: u32 = 0o400;

/// Why an image could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Reading it.
    #[error("the image cannot be read at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It was written to while it was read.
    #[error("the image has changed while it was loaded; boot again when it is at rest")]
    Changed,
    /// There is no memory for it.
    #[error("there is no room for the image in memory at byte {at}")]
    Full {
        /// Where.
        at: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The memory's file.
    #[error("the memory for the image cannot be used")]
    Memory(#[source] io::Error),
    /// The memory's file cannot be mapped.
    #[error("the memory for the image cannot be mapped")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
}

/// What tells one content of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u64; 7]);

impl Identity {
    /// Of what an open file holds now.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        let signed =
            [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()].map(i64::cast_unsigned);
        Ok(Self([stat.dev(), stat.ino(), stat.len(), signed[0], signed[1], signed[2], signed[3]]))
    }

    /// A file name for it.
    pub fn name(&self) -> String {
        self.0.map(|number| format!("{number:x}")).join("-")
    }
}

/// Whether `memory` holds its image already.
pub fn is_loaded(memory: &File) -> io::Result<bool> {
    Ok(memory.metadata()?.permissions().mode() & 0o200 == 0)
}

/// Has `memory` count as loaded, whatever it holds: it gets its contents from somebody else than [`load`].
pub fn mark_loaded(memory: &File) -> io::Result<()> {
    memory.set_permissions(Permissions::from_mode(LOADED))
}

/// Fills the beginning of `memory`, fresh and of at least `size` bytes, with as much of `image`; what has been filled
/// already is left as it is.
pub fn load(image: &File, memory: &File, size: u64) -> Result<(), LoadError> {
    if is_loaded(memory).map_err(LoadError::Memory)? {
        return Ok(());
    }
    let read = |at| move |source| LoadError::Read { at, source };
    let identity = Identity::of(image).map_err(read(0))?;
    let length = usize::try_from(size).map_err(|error| LoadError::Memory(io::Error::other(error)))?;
    let file = memory.try_clone().map_err(LoadError::Memory)?;
    let mapping = MmapRegion::<()>::from_file(FileOffset::new(file, 0), length).map_err(LoadError::Map)?;
    let mut at = 0;
    while let Some(extent) = next_data(image, at, size).map_err(read(at))? {
        at = copy(image, &mapping, extent, size)?;
    }
    if Identity::of(image).map_err(read(0))? != identity {
        return Err(LoadError::Changed);
    }
    mark_loaded(memory).map_err(LoadError::Memory)
}

/// Where there is data at or behind `at`.
fn next_data(image: &File, at: u64, size: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(image, SeekFrom::Data(at)) {
        Ok(data) if data < size => Ok(Some(data.max(at))),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        // A file system that does not know holes has none.
        Err(Errno::INVAL) => Ok((at < size).then_some(at)),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies what is not zero of the block with `data` in it; answers where that ends.
fn copy(image: &File, mapping: &MmapRegion, data: u64, size: u64) -> Result<u64, LoadError> {
    let start = data - data % BLOCK as u64;
    let length = usize::try_from(size - start).map_or(BLOCK, |left| left.min(BLOCK));
    let mut block = [0; BLOCK];
    image
        .read_exact_at(&mut block[..length], start)
        .map_err(|source| LoadError::Read { at: start, source })?;
    for (offset, page) in (start..).step_by(PAGE).zip(block[..length].chunks(PAGE)) {
        if page.iter().any(|&byte| byte != 0) {
            place(image, mapping, offset, page.len())?;
        }
    }
    Ok(start + length as u64)
}

/// Reads a page of the image right into memory. By a system call and not by stores, because a store for which there is no
/// room is a SIGBUS, and a call that may not write is an error.
fn place(image: &File, mapping: &MmapRegion, at: u64, length: usize) -> Result<(), LoadError> {
    let full = |source| LoadError::Full { at, source };
    // Cannot truncate: it lies within a mapping.
    let mut room = mapping.get_slice(at as usize, length).map_err(|error| full(io::Error::other(error)))?;
    rustix::fs::seek(image, SeekFrom::Start(at)).map_err(|errno| full(errno.into()))?;
    vm_memory::ReadVolatile::read_exact_volatile(&mut &*image, &mut room)
        .map_err(|error| full(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const SIZE: u64 = 2 << 20;

    fn file(size: u64) -> File {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        file
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut all = vec![0; SIZE as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    }

    #[test]
    fn memory_holds_what_the_image_holds() {
        let (image, memory) = (file(SIZE), file(SIZE));
        for (at, byte) in [(0, 1), (4095, 2), (100_000, 3), (SIZE - 1, 4)] {
            image.write_all_at(&[byte], at).unwrap();
        }
        load(&image, &memory, SIZE).unwrap();
        assert_eq!(contents(&memory), contents(&image));
    }

    #[test]
    fn neither_holes_nor_zeros_take_memory() {
        let (image, memory) = (file(SIZE), file(SIZE));
        image.write_all_at(&[0; 1 << 20], 0).unwrap();
        image.write_all_at(&[1], 1 << 20).unwrap();
        load(&image, &memory, SIZE).unwrap();
        assert_eq!(memory.metadata().unwrap().blocks(), 8);
    }

    #[test]
    fn memory_that_is_loaded_is_not_loaded_again() {
        let (image, memory) = (file(SIZE), file(SIZE));
        assert!(!is_loaded(&memory).unwrap());
        load(&image, &memory, SIZE).unwrap();
        assert!(is_loaded(&memory).unwrap());
        memory.write_all_at(&[9], 0).unwrap();
        load(&image, &memory, SIZE).unwrap();
        assert_eq!(contents(&memory)[0], 9, "the guest's store is kept");
    }

    #[test]
    fn an_image_shorter_than_memory_is_an_error_and_memory_is_not_loaded() {
        let (image, memory) = (file(SIZE / 2 + 5), file(SIZE));
        image.write_all_at(&[1; 5], SIZE / 2).unwrap();
        assert!(matches!(load(&image, &memory, SIZE), Err(LoadError::Read { .. })));
        assert!(!is_loaded(&memory).unwrap());
    }

    #[test]
    fn another_content_has_another_identity() {
        let image = file(SIZE);
        let before = Identity::of(&image).unwrap();
        assert_eq!(Identity::of(&image).unwrap(), before);
        image.set_len(SIZE + 1).unwrap();
        let after = Identity::of(&image).unwrap();
        assert_ne!(after, before);
        assert_ne!(after.name(), before.name());
    }
}
