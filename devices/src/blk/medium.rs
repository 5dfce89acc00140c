//! What a disk's bytes are kept in.

use std::io;

use vm_memory::VolatileSlice;

/// Where a disk's bytes are; every range was checked to be within [`Medium::size`].
///
/// All calls are done when they return, and what was written survives the death of this process: another one that
/// opens the same file reads it. Only [`Medium::flush`] makes it survive the host.
pub(super) trait Medium {
    /// Bytes, a multiple of the block size.
    fn size(&self) -> u64;

    /// Fills all of `slices` from `offset` on.
    fn read(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// Writes all of `slices` to `offset`.
    fn write(&mut self, slices: &mut [VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// Brings all that was written to where a power failure does not reach it.
    fn flush(&mut self) -> io::Result<()>;

    /// Gives blocks back to the host; what they read as afterwards is of no matter.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes a range read as zeros; `unmap` if its blocks may be given back.
    fn zero(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;

    /// Changes the size, and returns the new one.
    fn resize(&mut self, size: u64) -> io::Result<u64>;
}

/// Carries out `step` until all of `slices` are done; a step returns how many bytes it has moved.
pub(super) fn transfer(
    mut slices: &mut [VolatileSlice<'_>],
    mut offset: u64,
    mut step: impl FnMut(&[VolatileSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while let Some(first) = slices.first_mut() {
        if first.is_empty() {
            slices = &mut std::mem::take(&mut slices)[1..];
            continue;
        }
        let mut moved = match step(slices, offset) {
            // The image has become shorter.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset += moved as u64;
        while moved > 0 {
            let Some(first) = slices.first_mut() else { break };
            let count = moved.min(first.len());
            moved -= count;
            *first = first.offset(count).map_err(io::Error::other)?;
            if first.is_empty() {
                slices = &mut std::mem::take(&mut slices)[1..];
            }
        }
    }
    Ok(())
}
