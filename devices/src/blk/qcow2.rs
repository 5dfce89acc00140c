//! QEMU's format, by the crate `imago`.
//!
//! What a write changes of the format's own tables is written before the write is answered: this process may be killed
//! at any moment, and its successor reads the tables from the file. They reach the disk with the guest's next flush, as
//! the data do.

use std::io;

use imago::format::PreallocateMode;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2 as Driver;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

pub(super) use imago::file::File as Storage;
use vm_memory::VolatileSlice;

use super::medium::Medium;
use super::spec::SECTOR;

/// A qcow2 image without a backing file.
pub(super) struct Qcow2(FormatAccess<Storage>);

impl Qcow2 {
    /// Reads the image's header and first table. No other file is opened, whatever the image names: here none can be.
    pub fn new(storage: Storage, readonly: bool) -> io::Result<Self> {
        let driver = Driver::<Storage>::builder(storage).write(!readonly);
        Ok(Self(FormatAccess::new(driver.open(DenyImplicitOpenGate::default())?)))
    }
}

impl Medium for Qcow2 {
    fn size(&self) -> u64 {
        let bytes = self.0.size();
        bytes - bytes % SECTOR
    }

    fn read(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _mapped) = IoVectorMut::from_volatile_slice(&*slices);
        self.0.readv(vector, offset)
    }

    fn write(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _mapped) = IoVector::from_volatile_slice(&*slices);
        self.0.writev(vector, offset)?;
        self.0.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.sync()
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.0.discard_to_any(offset, length)?;
        self.0.flush()
    }

    fn zero(&mut self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, length)?;
        self.0.flush()
    }

    fn resize(&mut self, size: u64) -> io::Result<u64> {
        self.0.resize_grow(size, PreallocateMode::None)?;
        self.0.flush()?;
        Ok(self.size())
    }
}
