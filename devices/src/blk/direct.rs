//! Direct I/O: what the kernel demands of it, and the way round for buffers that are not so.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

use super::request::scatter;
use super::spec::SECTOR;
use super::sys;

/// Bytes that go the long way at once.
const BOUNCE: usize = 256 << 10;
/// The coarsest alignment that there is: a page of any size.
const COARSEST: u32 = 64 << 10;

/// What addresses and offsets of direct I/O must be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Memory addresses.
    pub memory: u32,
    /// Offsets into the file, and lengths.
    pub offset: u32,
}

impl Alignment {
    /// Checks what somebody says; `None` if it is no alignment.
    pub fn new(memory: u32, offset: u32) -> Option<Self> {
        let sound = |value: u32| value.is_power_of_two() && value <= COARSEST;
        let offset = offset.max(SECTOR as u32);
        (sound(memory) && sound(offset)).then_some(Self { memory, offset })
    }

    /// Whether the kernel takes such a request.
    pub(super) fn suits(self, slices: &[VolatileSlice<'_>], offset: u64) -> bool {
        let fits = |slice: &VolatileSlice<'_>| {
            (slice.ptr_guard().as_ptr() as usize).is_multiple_of(self.memory as usize)
                && slice.len().is_multiple_of(self.offset as usize)
        };
        offset.is_multiple_of(self.offset.into()) && slices.iter().all(fits)
    }
}

/// An aligned buffer, made when it is first needed.
pub(super) struct Bounce {
    alignment: Alignment,
    room: Vec<u8>,
}

/// Where in the file, and where in the buffer.
struct Window {
    /// The aligned beginning in the file.
    start: u64,
    /// Bytes of the buffer before what is wanted.
    before: usize,
    /// Bytes that are wanted.
    wanted: usize,
    /// Bytes from the aligned beginning to the aligned end.
    whole: usize,
}

impl Bounce {
    pub fn new(alignment: Alignment) -> Self {
        Self { alignment, room: Vec::new() }
    }

    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Reads the beginning of `slices` by way of the buffer.
    pub fn read(
        &mut self,
        file: BorrowedFd<'_>,
        slices: &[VolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let window = self.window(slices, offset);
        let buffer = self.aligned();
        let read = sys::read_at(file, &[VolatileSlice::from(&mut buffer[..window.whole])], window.start)?;
        let usable = read.saturating_sub(window.before).min(window.wanted);
        scatter(&buffer[window.before..window.before + usable], slices);
        Ok(usable)
    }

    /// Writes the beginning of `slices` by way of the buffer. What shares a block with it is read first: nobody else
    /// writes this image, and this process does one thing at a time.
    pub fn write(
        &mut self,
        file: BorrowedFd<'_>,
        slices: &[VolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let window = self.window(slices, offset);
        let buffer = self.aligned();
        let mut whole = &mut buffer[..window.whole];
        if window.wanted < window.whole {
            let read = sys::read_at(file, &[VolatileSlice::from(&mut *whole)], window.start)?;
            if read < window.whole {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut rest = &mut whole[window.before..window.before + window.wanted];
        for slice in slices {
            let count = slice.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            slice.copy_to(now);
            rest = later;
        }
        let mut start = window.start;
        while !whole.is_empty() {
            let written = sys::write_at(file, &[VolatileSlice::from(&mut *whole)], start)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            start += written as u64;
            whole = &mut whole[written..];
        }
        Ok(window.wanted)
    }

    fn window(&self, slices: &[VolatileSlice<'_>], offset: u64) -> Window {
        let block = u64::from(self.alignment.offset);
        let before = offset % block;
        let most = BOUNCE - before as usize;
        let wanted = slices.iter().map(|slice| slice.len()).sum::<usize>().min(most);
        let whole = (before as usize + wanted).next_multiple_of(block as usize);
        Window { start: offset - before, before: before as usize, wanted, whole }
    }

    fn aligned(&mut self) -> &mut [u8] {
        let alignment = self.alignment.memory.max(self.alignment.offset) as usize;
        if self.room.is_empty() {
            self.room = vec![0; BOUNCE + alignment];
        }
        let start = self.room.as_ptr().align_offset(alignment).min(alignment);
        &mut self.room[start..start + BOUNCE]
    }
}
