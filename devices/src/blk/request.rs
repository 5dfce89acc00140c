//! A descriptor chain as a request (virtio 1.2, §5.2.6): every number in it an allegation until it was checked here.
//!
//! ```text
//!   readable  ┌ type │ reserved │ sector ┐┌ data of OUT, DISCARD, WRITE_ZEROES … ┐
//!   writable  ┌ data of IN, ID … ┐┌ status ┐
//! ```
//! How the bytes are spread over descriptors is the driver's business (§2.7.4).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::spec::{HEADER, MAX_REQUEST, MAX_SEGMENTS, RANGE, Status};
use crate::serve::{Chain, Memory};

/// A stretch of guest memory, alleged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    address: GuestAddress,
    length: u32,
}

/// What a chain holds, its buffers in their two halves.
#[derive(Debug, Default)]
pub(super) struct Request {
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    /// Where the status goes; a chain without a place for it is given back as it is.
    status: Option<GuestAddress>,
    faulty: bool,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: u32,
    pub sector: u64,
}

/// One range of DISCARD or WRITE_ZEROES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub sector: u64,
    pub sectors: u32,
    pub flags: u32,
}

/// Which half of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Readable,
    Writable,
}

impl Request {
    /// Takes a chain apart; the storage of the request before is used again.
    pub fn read(&mut self, chain: Chain<'_>) {
        self.readable.clear();
        self.writable.clear();
        self.status = None;
        self.faulty = false;
        for descriptor in chain {
            let buffer = Buffer { address: descriptor.addr(), length: descriptor.len() };
            let writable = descriptor.is_write_only();
            // What the device writes comes last (§2.7.4.2).
            self.faulty |= !writable && !self.writable.is_empty();
            let half = if writable { &mut self.writable } else { &mut self.readable };
            if buffer.length == 0 {
                continue;
            }
            if half.len() < MAX_SEGMENTS {
                half.push(buffer);
            } else {
                self.faulty = true;
                // The status is at the end of the last one.
                half[MAX_SEGMENTS - 1] = buffer;
            }
        }
        self.split_off_status();
        let size = |half: &[Buffer]| half.iter().map(|buffer| u64::from(buffer.length)).sum::<u64>();
        self.faulty |= size(&self.readable).max(size(&self.writable)) > MAX_REQUEST;
    }

    fn split_off_status(&mut self) {
        if let Some(last) = self.writable.last_mut() {
            last.length -= 1;
            self.status = last.address.0.checked_add(last.length.into()).map(GuestAddress);
            if last.length == 0 {
                self.writable.pop();
            }
        }
    }

    /// Bytes that the device may write before the status.
    pub fn writable_bytes(&self) -> u64 {
        self.writable.iter().map(|buffer| u64::from(buffer.length)).sum()
    }

    /// Bytes of data that the driver gives.
    pub fn data_bytes(&self) -> u64 {
        let readable: u64 = self.readable.iter().map(|buffer| u64::from(buffer.length)).sum();
        readable.saturating_sub(HEADER as u64)
    }

    /// Reads the header.
    pub fn header(&self, memory: &Memory) -> Option<Header> {
        if self.faulty {
            return None;
        }
        let mut bytes = [0; HEADER];
        self.copy_out(memory, 0, &mut bytes)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        Some(Header { kind: u32::from_le_bytes([t0, t1, t2, t3]), sector: u64::from_le_bytes(sector) })
    }

    /// Reads the ranges of DISCARD and WRITE_ZEROES, of which there must be 1 to `most`.
    pub fn ranges(&self, memory: &Memory, most: u32) -> Option<Vec<Range>> {
        let bytes = usize::try_from(self.data_bytes()).ok()?;
        let count = bytes / RANGE;
        if !bytes.is_multiple_of(RANGE) || !(1..=most as usize).contains(&count) {
            return None;
        }
        (0..count).map(|index| self.range(memory, HEADER + index * RANGE)).collect()
    }

    fn range(&self, memory: &Memory, offset: usize) -> Option<Range> {
        let mut bytes = [0; RANGE];
        self.copy_out(memory, offset, &mut bytes)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        Some(Range {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes(flags),
        })
    }

    /// Copies what the driver gives from `offset` on.
    fn copy_out(&self, memory: &Memory, mut offset: usize, mut to: &mut [u8]) -> Option<()> {
        for buffer in &self.readable {
            let length = buffer.length as usize;
            if offset >= length {
                offset -= length;
                continue;
            }
            let count = to.len().min(length - offset);
            let (now, later) = to.split_at_mut(count);
            let at = buffer.address.0.checked_add(offset as u64)?;
            memory.read_slice(now, GuestAddress(at)).ok()?;
            (to, offset) = (later, 0);
            if to.is_empty() {
                return Some(());
            }
        }
        None
    }

    /// The guest memory of one half, behind its header, checked to be memory.
    pub fn slices<'m>(&self, memory: &'m Memory, half: Half) -> Option<Vec<VolatileSlice<'m>>> {
        let (buffers, mut skip) = match half {
            Half::Readable => (&self.readable, HEADER),
            Half::Writable => (&self.writable, 0),
        };
        let mut slices = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            let skipped = skip.min(buffer.length as usize);
            skip -= skipped;
            let start = buffer.address.0.checked_add(skipped as u64)?;
            // A buffer may lie in two regions that adjoin.
            for slice in memory.get_slices(GuestAddress(start), buffer.length as usize - skipped) {
                slices.push(slice.ok()?);
            }
        }
        // Beyond what one call of the kernel takes; drivers know `seg_max`.
        (slices.len() <= MAX_SEGMENTS).then_some(slices)
    }

    /// Writes the status, and returns how many bytes of the chain were written with it.
    pub fn finish(&self, memory: &Memory, status: Status, data: u32) -> u32 {
        let place = self.status.map(|status_at| memory.write_obj(status as u8, status_at));
        match place {
            Some(Ok(())) => data.saturating_add(1),
            // Nowhere to say so: the driver sees that nothing was written.
            Some(Err(_)) | None => 0,
        }
    }
}

/// Writes `bytes` into `slices`, one after the other, as far as they reach.
pub(super) fn scatter(mut bytes: &[u8], slices: &[VolatileSlice<'_>]) {
    for slice in slices {
        let (now, later) = bytes.split_at(slice.len().min(bytes.len()));
        slice.copy_from(now);
        bytes = later;
    }
}
