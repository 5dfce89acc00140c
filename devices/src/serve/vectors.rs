//! Guest memory as the kernel takes it, so that files are read straight into a guest's buffers and written straight
//! from them.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use super::ring::{Chain, Memory};

/// The most pieces that `readv(2)` and `writev(2)` take (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// A chain that cannot be a list of buffers; the guest is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadChain {
    /// A buffer is not in memory.
    #[error("a buffer is not in memory")]
    Outside,
    /// The kernel would not take so many.
    #[error("more than {MAX_PIECES} buffers")]
    Pieces,
}

/// Pieces of guest memory in the order of their bytes.
#[derive(Default)]
pub struct Vectors<'m> {
    list: Vec<libc::iovec>,
    length: usize,
    memory: PhantomData<&'m Memory>,
}

impl<'m> Vectors<'m> {
    /// What the device may write of `chain`.
    pub fn writable(chain: Chain<'m>, memory: &'m Memory) -> Result<Self, BadChain> {
        let mut vectors = Self::default();
        vectors.append_writable(chain, memory)?;
        Ok(vectors)
    }

    /// What the device may read of `chain`.
    pub fn readable(chain: Chain<'m>, memory: &'m Memory) -> Result<Self, BadChain> {
        let mut vectors = Self::default();
        chain.readable().try_for_each(|descriptor| vectors.push(memory, &descriptor))?;
        Ok(vectors)
    }

    /// Appends what the device may write of `chain`, and returns how many bytes that is. A bad chain appends nothing.
    pub fn append_writable(&mut self, chain: Chain<'m>, memory: &'m Memory) -> Result<usize, BadChain> {
        self.append(memory, chain.writable())
    }

    /// Appends buffers, and returns how many bytes that is. With one that is bad it appends nothing.
    pub(super) fn append(
        &mut self,
        memory: &'m Memory,
        mut buffers: impl Iterator<Item = Descriptor>,
    ) -> Result<usize, BadChain> {
        let (pieces, before) = (self.list.len(), self.length);
        let appended = buffers.try_for_each(|descriptor| self.push(memory, &descriptor));
        if let Err(bad) = appended {
            self.list.truncate(pieces);
            self.length = before;
            return Err(bad);
        }
        Ok(self.length - before)
    }

    fn push(&mut self, memory: &'m Memory, descriptor: &Descriptor) -> Result<(), BadChain> {
        // Nearly all are in one region, which is found faster than the pieces of any.
        if let Ok(slice) = memory.get_slice(descriptor.addr(), descriptor.len() as usize) {
            return if slice.is_empty() { Ok(()) } else { self.push_slice(&slice) };
        }
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            self.push_slice(&slice.map_err(|_| BadChain::Outside)?)?;
        }
        Ok(())
    }

    fn push_slice(&mut self, slice: &VolatileSlice<'m>) -> Result<(), BadChain> {
        if self.list.len() == MAX_PIECES {
            return Err(BadChain::Pieces);
        }
        let iov_base = slice.ptr_guard_mut().as_ptr().cast();
        self.list.push(libc::iovec { iov_base, iov_len: slice.len() });
        self.length += slice.len();
        Ok(())
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Cuts off what is behind the first `count` bytes, and returns it.
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut rest = Self::default();
        if count >= self.length {
            return rest;
        }
        let mut left = count;
        let within = |piece: &libc::iovec| {
            let here = left < piece.iov_len;
            left -= if here { 0 } else { piece.iov_len };
            here
        };
        // There is one: the pieces have `length` bytes, and `count` is less.
        let at = self.list.iter().position(within).unwrap_or(self.list.len());
        rest.list = self.list.split_off(at);
        if let Some(piece) = rest.list.first_mut().filter(|_| left > 0) {
            self.list.push(libc::iovec { iov_len: left, ..*piece });
            piece.iov_base = piece.iov_base.wrapping_byte_add(left);
            piece.iov_len -= left;
        }
        rest.length = self.length - count;
        self.length = count;
        rest
    }

    /// Cuts the first `count` bytes off, and throws them away.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        let whole = self.list.iter().take_while(|piece| {
            let all = piece.iov_len <= left;
            left -= if all { piece.iov_len } else { 0 };
            all
        });
        let whole = whole.count();
        self.list.drain(..whole);
        if let Some(piece) = self.list.first_mut() {
            piece.iov_base = piece.iov_base.wrapping_byte_add(left);
            piece.iov_len -= left;
        }
    }

    /// Moves all of it, the first `count` bytes behind `front` and the rest behind `rest`; false, and nothing is moved, if the
    /// kernel would not take so many.
    pub fn deal(&mut self, count: usize, front: &mut Self, rest: &mut Self) -> bool {
        let most = front.list.len().max(rest.list.len()) + self.list.len() + 1;
        if most > MAX_PIECES {
            return false;
        }
        let mut left = count.min(self.length);
        (front.length, rest.length) = (front.length + left, rest.length + self.length - left);
        for piece in self.list.drain(..) {
            let here = left.min(piece.iov_len);
            left -= here;
            if here > 0 {
                front.list.push(libc::iovec { iov_len: here, ..piece });
            }
            if here < piece.iov_len {
                let iov_base = piece.iov_base.wrapping_byte_add(here);
                rest.list.push(libc::iovec { iov_base, iov_len: piece.iov_len - here });
            }
        }
        self.length = 0;
        true
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.list.clear();
        self.length = 0;
    }

    /// Cuts off what is behind the first `count` bytes, and throws it away.
    pub fn truncate(&mut self, count: usize) {
        drop(self.split_off(count));
    }

    /// The first `count` bytes, the rest left alone.
    pub fn first(&self, count: usize) -> Self {
        let mut first = Self { list: self.list.clone(), ..*self };
        first.truncate(count);
        first
    }

    /// What is behind the first `count` bytes, all of it left alone.
    pub fn after(&self, count: usize) -> Self {
        Self { list: self.list.clone(), ..*self }.split_off(count)
    }

    /// Copies the first bytes out, and returns how many: as many as there are, or as `bytes` has room for.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            done += slice.copy_to::<u8>(&mut bytes[done..]);
        }
        done
    }

    /// Overwrites the first bytes, and returns how many: as many as there are, or as there are in `bytes`.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let count = slice.len().min(bytes.len() - done);
            slice.copy_from::<u8>(&bytes[done..done + count]);
            done += count;
        }
        done
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'m>> {
        let whole = |piece: &libc::iovec| {
            // SAFETY: the piece was made of a slice of memory that is mapped for 'm, and has only become shorter since.
            unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
        };
        self.list.iter().map(whole)
    }

    /// Fills memory from `file`, by one call of `readv(2)`.
    pub fn read_from(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: each piece is mapped guest memory, which the kernel may write as any device may, or what `read_with` has
        // borrowed; there are at most MAX_PIECES of them.
        retry(|| unsafe { libc::readv(file.as_raw_fd(), self.list.as_ptr(), self.list.len() as libc::c_int) })
    }

    /// As [`Self::read_from`]; what there is no room for goes to `beyond`.
    pub fn read_with(&mut self, beyond: &mut [u8], file: BorrowedFd<'_>) -> io::Result<usize> {
        if self.list.len() == MAX_PIECES {
            return self.read_from(file);
        }
        self.list.push(libc::iovec { iov_base: beyond.as_mut_ptr().cast(), iov_len: beyond.len() });
        // `beyond` is borrowed until the piece is gone again.
        let read = self.read_from(file);
        self.list.pop();
        read
    }

    /// Writes memory to `file`, by one call of `writev(2)`.
    pub fn write_to(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: each piece is mapped guest memory, which the kernel only reads; there are at most MAX_PIECES of them.
        retry(|| unsafe {
            libc::writev(file.as_raw_fd(), self.list.as_ptr(), self.list.len() as libc::c_int)
        })
    }
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const START: u64 = 0x1_0000;

    fn memory() -> Memory {
        // Two regions that adjoin.
        Memory::from_ranges(&[(GuestAddress(START), 0x1000), (GuestAddress(START + 0x1000), 0x1000)]).unwrap()
    }

    fn vectors<'m>(memory: &'m Memory, pieces: &[(u64, u32)]) -> Result<Vectors<'m>, BadChain> {
        let mut vectors = Vectors::default();
        for (address, length) in pieces {
            vectors.push(memory, &Descriptor::new(*address, *length, 0, 0))?;
        }
        Ok(vectors)
    }

    #[test]
    fn pieces_are_cut_anywhere_and_stay_in_order() {
        let memory = memory();
        for cut in 0..=12 {
            let mut front = vectors(&memory, &[(START, 4), (START + 0xffe, 5), (START + 0x800, 3)]).unwrap();
            assert_eq!(front.copy_from(b"abcdefghijklmno"), 12);
            let mut rest = front.split_off(cut);
            assert_eq!((front.len(), rest.len()), (cut, 12 - cut));
            let (mut first, mut second) = ([0; 16], [0; 16]);
            let counts = (front.copy_to(&mut first), rest.copy_to(&mut second));
            assert_eq!(counts, (cut, 12 - cut));
            assert_eq!([&first[..cut], &second[..12 - cut]].concat(), b"abcdefghijkl", "cut at {cut}");
            rest.skip(100);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn pieces_are_dealt_and_skipped_anywhere() {
        let memory = memory();
        for cut in 0..=12 {
            let pieces = [(START, 4), (START + 0xffe, 5), (START + 0x800, 3)];
            let mut all = vectors(&memory, &pieces).unwrap();
            all.copy_from(b"abcdefghijkl");
            let mut skipped = vectors(&memory, &pieces).unwrap();
            skipped.skip(cut);
            let (mut front, mut rest) = (Vectors::default(), Vectors::default());
            assert!(all.deal(cut, &mut front, &mut rest));
            assert_eq!((all.len(), front.len(), rest.len(), skipped.len()), (0, cut, 12 - cut, 12 - cut));
            let (mut first, mut second, mut third) = ([0; 12], [0; 12], [0; 12]);
            front.copy_to(&mut first);
            rest.copy_to(&mut second);
            skipped.copy_to(&mut third);
            assert_eq!([&first[..cut], &second[..12 - cut]].concat(), b"abcdefghijkl", "cut at {cut}");
            assert_eq!(second, third, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_in_memory_is_refused() {
        let memory = memory();
        for bad in [(0, 1), (START - 1, 2), (START + 0x1fff, 2), (u64::MAX, 2), (START, u32::MAX)] {
            assert_eq!(vectors(&memory, &[(START, 1), bad]).err(), Some(BadChain::Outside), "{bad:x?}");
        }
        assert_eq!(vectors(&memory, &[(START, 1); 1025]).err(), Some(BadChain::Pieces));
    }

    #[test]
    fn files_are_read_and_written_without_a_buffer_between() {
        let memory = memory();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"across two regions").unwrap();
        let vectors = vectors(&memory, &[(START + 0xff8, 18)]).unwrap();
        assert_eq!(vectors.read_from(reader.as_fd()).unwrap(), 18);
        let mut seen = [0; 18];
        memory.read_slice(&mut seen, GuestAddress(START + 0xff8)).unwrap();
        assert_eq!(&seen, b"across two regions");
        assert_eq!(vectors.write_to(writer.as_fd()).unwrap(), 18);
        reader.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"across two regions");
        let directory = File::open("/").unwrap();
        assert!(vectors.read_from(directory.as_fd()).is_err());
    }
}
