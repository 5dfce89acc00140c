//! Files as the formats need them: read and written at offsets, sparse, synced. And one that is only memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

/// Something that bytes can be read from at an offset.
pub trait ReadAt {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// Of the file, and `UnexpectedEof` where it ends before the buffer is full.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Of the file.
    fn length(&self) -> io::Result<u64>;

    /// The first offset from `offset` on that may be other than a hole; `None` if all the rest is one.
    ///
    /// # Errors
    /// Of the file.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset).filter(|_| self.length().is_ok_and(|length| offset < length)))
    }

    /// The first offset from `offset` on, which is no hole, that may be one; the length if there is none.
    ///
    /// # Errors
    /// Of the file.
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let _ = offset;
        self.length()
    }
}

/// Something that can also be written, and made to last.
pub trait WriteAt: ReadAt {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Of the file.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the length; what is new reads as zero and takes no room.
    ///
    /// # Errors
    /// Of the file.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes a range read as zero, without taking room where the file system can do that.
    ///
    /// # Errors
    /// Of the file.
    fn clear(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns once all that was written will outlive a power cut.
    ///
    /// # Errors
    /// Of the file.
    fn sync(&self) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self, rustix::fs::SeekFrom::Data(offset)) {
            Ok(next) => Ok(Some(next)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL) => Ok(Some(offset)), // no holes on this file system
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(self, rustix::fs::SeekFrom::Hole(offset)) {
            Ok(next) => Ok(next),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NXIO) => self.length(), // no holes on this file system
            Err(error) => Err(error.into()),
        }
    }
}

impl WriteAt for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn clear(&self, offset: u64, length: u64) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(self, how, offset, length).is_ok() {
            return Ok(());
        }
        // Not every file system has holes. Zeros it has.
        let zeros = [0u8; 4096];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(zeros.len() as u64);
            let step_bytes = usize::try_from(step).expect("at most 4096");
            FileExt::write_all_at(self, &zeros[..step_bytes], offset + done)?;
            done += step;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl<F: ReadAt> ReadAt for Arc<F> {
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        F::next_hole(self, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        F::read_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        F::length(self)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        F::next_data(self, offset)
    }
}

impl<F: ReadAt> ReadAt for &F {
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        F::next_hole(self, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        F::read_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        F::length(self)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        F::next_data(self, offset)
    }
}

impl<F: WriteAt> WriteAt for &F {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        F::write_at(self, bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        F::set_length(self, length)
    }

    fn clear(&self, offset: u64, length: u64) -> io::Result<()> {
        F::clear(self, offset, length)
    }

    fn sync(&self) -> io::Result<()> {
        F::sync(self)
    }
}

/// A file that is only memory: for tests, fuzzers and golden bytes.
#[derive(Debug, Default)]
pub struct Buffer(Mutex<Vec<u8>>);

impl Buffer {
    /// A file that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    /// A copy of what it holds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        // Plain bytes are never half-changed, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Buffer {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.lock();
        let range = usize::try_from(offset).ok().and_then(|from| Some(from..from.checked_add(buffer.len())?));
        let found = range.and_then(|range| bytes.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }
}

impl WriteAt for Buffer {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = from.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut held = self.lock();
        if held.len() < end {
            held.resize(end, 0);
        }
        held[from..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.lock().resize(length, 0);
        Ok(())
    }

    fn clear(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.write_at(&vec![0; length], offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
