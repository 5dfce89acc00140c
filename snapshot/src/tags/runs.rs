//! The tags of one page as runs of equal tags.
//!
//! A heap page is small objects side by side, each with a tag of its own: runs of 2 to 8 granules. A run is its tag (4
//! bits) and its length less one, an exp-Golomb number of the order that suits the page (0 to 3).
//!
//! - glibc leaves the granule before each object, which holds the chunk's header, untagged. In a *separated* form that
//!   one granule of zero after every tagged run is not written at all. Linux's KASAN tags slab objects without gaps: the
//!   other forms.
//! - Objects of one size are common. In a form with a *common* length (a byte before the runs) one bit says that a run
//!   has it; the other runs have that bit zero and then their number.

use super::bits::{BitReader, BitWriter, Code, number_bits, number_in};

/// Which of the forms of a run-length coded page this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// After each run of a tag that is not zero comes one granule of zero.
    pub(super) separated: bool,
    /// The order of the exp-Golomb numbers.
    pub(super) order: u32,
    /// The length, less one, that one bit stands for.
    pub(super) common: Option<u8>,
}

/// A run of equal tags: its tag in the low 4 bits, its length in granules, less one, in the 12 above. A page of 64 KiB has 4096 granules.
type Run = u16;

/// Finds the runs of a page. Of each that begins after granule 0, `starts` gets the granule before (12 bits) and the tag
/// (4 bits). Gives their number; `None` if there is no room.
fn find_starts(packed: &[u8], starts: &mut [u16]) -> Option<usize> {
    let (words, _) = packed.as_chunks::<8>();
    let mut slots = starts.iter_mut();
    let room = slots.len();
    // So that the first granule never differs from the one before it.
    let mut last = u64::from(packed[0] & 0xf);
    let mut before = u16::MAX;
    for word in words {
        let word = u64::from_le_bytes(*word);
        // A nibble that differs from the one before it begins a run.
        let mut differs = word ^ (word << 4 | last);
        last = word >> 60;
        differs |= differs >> 2;
        differs |= differs >> 1;
        differs &= 0x1111_1111_1111_1111;
        while differs != 0 {
            let bit = differs.trailing_zeros();
            let granule = before.wrapping_add((bit / 4) as u16);
            *slots.next()? = granule << 4 | (word >> bit) as u16 & 0xf;
            differs &= differs - 1;
        }
        before = before.wrapping_add(16);
    }
    Some(room - slots.len())
}

/// Makes runs of starts and gives their number; `None` if the page is not of a separated form and should be.
fn make_runs(packed: &[u8], starts: &[u16], separated: bool, runs: &mut [Run]) -> Option<usize> {
    let mut slots = runs.iter_mut();
    let room = slots.len();
    let mut tag = u16::from(packed[0] & 0xf);
    // The first granule that no run has yet; one more after a tag in a separated form.
    let mut free = 0;
    let end = ((packed.len() * 2 - 1) as u16) << 4;
    for &next in starts.iter().chain([&end]) {
        // The granule before the next run begins is this one's last.
        let last = next >> 4;
        if last >= free {
            *slots.next()? = (last - free) << 4 | tag;
        } else if tag != 0 {
            return None;
        }
        free = last + 1;
        if separated && tag != 0 {
            if next & 0xf != 0 {
                return None;
            }
            free += 1;
        }
        tag = next & 0xf;
    }
    Some(room - slots.len())
}

/// Room for what is known of a page, used again for the next.
#[derive(Default)]
pub(super) struct Scratch {
    starts: Vec<u16>,
    runs: Vec<Run>,
    /// By length less one: how many runs have it, and what stands for it (after 4 bits of zero, for the tag).
    lengths: Vec<(u16, Code)>,
    /// The lengths, less one, that the page has.
    distinct: Vec<u16>,
}

/// Appends a page in a short form, if that is shorter than packed tags, with its record byte `record`.
pub(super) fn encode(
    packed: &[u8],
    record: impl Fn(Form) -> u8,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> bool {
    let Scratch { starts, runs, lengths, distinct } = scratch;
    // A run takes at least 5 bits; in a separated form it stands for two.
    let most = 2 * packed.len() * 8 / 5;
    starts.resize(most, 0);
    runs.resize(most + 1, 0);
    let Some(count) = find_starts(packed, starts) else { return false };
    // Leaving zeros out is hardly ever longer: no need to try both.
    let apart = make_runs(packed, &starts[..count], true, runs);
    let made = apart.or_else(|| make_runs(packed, &starts[..count], false, runs));
    let Some(runs) = made.and_then(|made| runs.get(..made)) else { return false };
    lengths.resize(packed.len() * 2, (0, Code::default()));
    distinct.clear();
    for run in runs {
        let (count, _) = &mut lengths[usize::from(run >> 4)];
        if *count == 0 {
            distinct.push(run >> 4);
        }
        *count += 1;
    }
    let (order, common, bits) = shortest(runs.len(), lengths, distinct);
    let short = bits.div_ceil(8) < packed.len();
    if short {
        out.push(record(Form { separated: apart.is_some(), order, common }));
        out.extend(common);
        let mut bits = BitWriter::new(out);
        for run in runs {
            let code = lengths[usize::from(run >> 4)].1;
            bits.put(Code { value: code.value | u32::from(run & 0xf), bits: code.bits });
        }
        bits.finish();
    }
    distinct.iter().for_each(|value| lengths[usize::from(*value)].0 = 0);
    short
}

/// The order and the common length with which the runs are shortest, and their bits. Leaves in `lengths` what stands for each.
fn shortest(runs: usize, lengths: &mut [(u16, Code)], distinct: &[u16]) -> (u32, Option<u8>, usize) {
    let (mut often, mut often_count) = (0, 0);
    let mut numbers = [0; 4];
    for &value in distinct {
        let count = u32::from(lengths[usize::from(value)].0);
        if count > often_count && value < 256 {
            (often, often_count) = (u32::from(value), count);
        }
        for (order, bits) in (0u32..).zip(&mut numbers) {
            *bits += count * number_bits(value.into(), order);
        }
    }
    let mut best = (0, None, usize::MAX);
    for (order, bits) in (0u32..).zip(numbers) {
        let without = 4 * runs + bits as usize;
        let with = 8 + 5 * runs + (bits - often_count * number_bits(often, order)) as usize;
        if without < best.2 {
            best = (order, None, without);
        }
        if with < best.2 {
            best = (order, Some(often as u8), with);
        }
    }
    let (order, common, _) = best;
    let tag = Code { value: 0, bits: 4 };
    for &value in distinct {
        let number = Code::number(value.into(), order);
        lengths[usize::from(value)].1 = tag.then(match common {
            Some(common) if u16::from(common) == value => Code { value: 1, bits: 1 },
            Some(_) => Code { value: 0, bits: 1 }.then(number),
            None => number,
        });
    }
    best
}

/// Reads runs into packed tags, which are zero. Gives the bytes used; `None` where the runs do not fill the page exactly.
pub(super) fn read(bytes: &[u8], form: Form, packed: &mut [u8]) -> Option<usize> {
    let granules = packed.len() * 2;
    let mut bits = BitReader::new(bytes);
    let mut at = 0usize;
    while at < granules {
        // The longest run that fits a page takes 30 bits, and there are 32.
        let next = bits.peek();
        let tag = (next & 0xf) as u8;
        let (value, used) = match form.common {
            None => number_in(next >> 4, form.order).map(|(value, bits)| (value, bits + 4))?,
            Some(common) if next >> 4 & 1 == 1 => (u32::from(common), 5),
            Some(_) => number_in(next >> 5, form.order).map(|(value, bits)| (value, bits + 5))?,
        };
        bits.skip(used)?;
        let length = value as usize + 1;
        if length > granules - at {
            return None;
        }
        if tag != 0 {
            fill(packed, at, length, tag);
            at += usize::from(form.separated);
        }
        at += length;
    }
    bits.finish()
}

/// Sets `length` tags from `start` on, in tags that are zero.
fn fill(packed: &mut [u8], start: usize, length: usize, tag: u8) {
    let end = start + length;
    if start % 2 == 1 {
        packed[start / 2] |= tag << 4;
    }
    let (from, to) = (start.div_ceil(2), end / 2);
    if from < to {
        packed[from..to].fill(tag << 4 | tag);
    }
    if end % 2 == 1 && to >= from {
        packed[end / 2] |= tag;
    }
}
