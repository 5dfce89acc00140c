//! An image that holds the bytes of the disk and nothing else.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, FileType, SeekFrom, fallocate, fdatasync, fstat, ftruncate, seek};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::direct::{Alignment, Bounce};
use super::medium::{Medium, transfer};
use super::spec::SECTOR;
use super::sys;

/// Zeros to write where the file system has no shorter way.
const ZEROS: usize = 64 << 10;

/// A raw image or a block device.
pub(super) struct Raw {
    file: File,
    size: u64,
    block_device: bool,
    bounce: Option<Bounce>,
    zeros: Vec<u8>,
}

impl Raw {
    /// Takes over an open file; with `alignment` it was opened for direct I/O.
    pub fn new(file: File, alignment: Option<Alignment>) -> io::Result<Self> {
        let block_device = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::BlockDevice;
        let bounce = alignment.map(Bounce::new);
        let mut raw = Self { file, size: 0, block_device, bounce, zeros: Vec::new() };
        raw.size = raw.measure()?;
        Ok(raw)
    }

    /// The size of the file now, in whole blocks.
    fn measure(&self) -> io::Result<u64> {
        let bytes = seek(&self.file, SeekFrom::End(0))?;
        let block = self.bounce.as_ref().map_or(SECTOR, |bounce| bounce.alignment().offset.into());
        Ok(bytes - bytes % block)
    }

    /// Refuses to write to what is not there any more: the file would grow again, with zeros for what was lost.
    fn still_reaches(&self, end: u64) -> io::Result<()> {
        let long_enough =
            self.block_device || u64::try_from(fstat(&self.file)?.st_size).is_ok_and(|size| end <= size);
        if long_enough { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn write_zeros(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let mut zeros = std::mem::take(&mut self.zeros);
        zeros.resize(ZEROS, 0);
        while length > 0 {
            // Cannot truncate: no more than ZEROS.
            let count = length.min(ZEROS as u64) as usize;
            self.write(&mut [VolatileSlice::from(&mut zeros[..count])], offset)?;
            offset += count as u64;
            length -= count as u64;
        }
        self.zeros = zeros;
        Ok(())
    }
}

impl Medium for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let Self { file, bounce, .. } = self;
        transfer(slices, offset, |slices, offset| match bounce {
            Some(bounce) if !bounce.alignment().suits(slices, offset) => {
                bounce.read(file.as_fd(), slices, offset)
            }
            _ => sys::read_at(file.as_fd(), slices, offset),
        })
    }

    fn write(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        self.still_reaches(offset + length as u64)?;
        let Self { file, bounce, .. } = self;
        transfer(slices, offset, |slices, offset| match bounce {
            Some(bounce) if !bounce.alignment().suits(slices, offset) => {
                bounce.write(file.as_fd(), slices, offset)
            }
            _ => sys::write_at(file.as_fd(), slices, offset),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.still_reaches(offset + length)?;
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    fn zero(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.still_reaches(offset + length)?;
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.write_zeros(offset, length),
            Err(errno) => Err(errno.into()),
        }
    }

    fn resize(&mut self, size: u64) -> io::Result<u64> {
        if self.block_device {
            // Whoever owns it has resized it; what is left to do is to look.
            let now = self.measure()?;
            if now != size {
                return Err(io::Error::other(format!("the block device has {now} bytes; resize it first")));
            }
        } else {
            ftruncate(&self.file, size)?;
        }
        self.size = self.measure()?;
        Ok(self.size)
    }
}
