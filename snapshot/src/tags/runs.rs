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

use super::bits::{BitReader, BitWriter, number_bits};

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

/// A run of equal tags: its tag and its length in granules.
type Run = (u8, u32);

/// Tag of one granule in packed tags.
fn tag_at(packed: &[u8], granule: usize) -> u8 {
    packed[granule / 2] >> (4 * (granule % 2)) & 0xf
}

/// The runs of a page, in `runs`; at most `limit`, else it is false that they are all.
fn collect(packed: &[u8], limit: usize, runs: &mut Vec<Run>) -> bool {
    runs.clear();
    let granules = packed.len() * 2;
    let (mut tag, mut start) = (tag_at(packed, 0), 0usize);
    let (words, _) = packed.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let last = if index == 0 { tag } else { packed[index * 8 - 1] >> 4 };
        // A nibble that differs from the one before it begins a run.
        let mut differs = word ^ (word << 4 | u64::from(last));
        differs |= differs >> 2;
        differs |= differs >> 1;
        differs &= 0x1111_1111_1111_1111;
        while differs != 0 {
            let nibble = differs.trailing_zeros() / 4;
            let granule = index * 16 + nibble as usize;
            if runs.len() == limit {
                return false;
            }
            runs.push((tag, (granule - start) as u32));
            (tag, start) = ((word >> (4 * nibble)) as u8 & 0xf, granule);
            differs &= differs - 1;
        }
    }
    runs.push((tag, (granules - start) as u32));
    true
}

/// The runs that a separated form writes, in `separated`; false if the page is not of that form.
fn separate(runs: &[Run], separated: &mut Vec<Run>) -> bool {
    separated.clear();
    let mut after_tag = false;
    for &(tag, length) in runs {
        match (tag, after_tag) {
            (0, true) if length == 1 => after_tag = false,
            (0, true) => {
                separated.push((0, length - 1));
                after_tag = false;
            }
            (0, false) => separated.push((0, length)),
            (_, true) => return false,
            (_, false) => {
                separated.push((tag, length));
                after_tag = true;
            }
        }
    }
    true
}

/// The order and the common length with which runs are shortest, and their bits.
fn best(runs: &[Run]) -> (u32, Option<u8>, usize) {
    let mut counts = [0u16; 256];
    let mut common = 0;
    let mut bits = [4 * runs.len(); 4];
    for &(_, length) in runs {
        let value = length - 1;
        for (order, bits) in (0u32..).zip(&mut bits) {
            *bits += number_bits(value, order);
        }
        if let Some(count) = counts.get_mut(value as usize) {
            *count += 1;
            if *count > counts[common] {
                common = value as usize;
            }
        }
    }
    let with_common = |order: u32| {
        let saved = usize::from(counts[common]) * number_bits(common as u32, order);
        8 + bits[order as usize] + runs.len() - saved
    };
    let without = (0..4).map(|order| (order, None, bits[order as usize]));
    let with = (0..4).map(|order| (order, Some(common as u8), with_common(order)));
    without.chain(with).min_by_key(|(_, _, bits)| *bits).expect("eight of them")
}

/// Room for runs, used again for every page.
#[derive(Default)]
pub(super) struct Scratch {
    runs: Vec<Run>,
    separated: Vec<Run>,
}

/// Appends a page in its shortest form, if that is shorter than packed tags, with its record byte `record`.
pub(super) fn encode(
    packed: &[u8],
    record: impl Fn(Form) -> u8,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> bool {
    let Scratch { runs, separated } = scratch;
    // A run takes at least 5 bits; in a separated form it stands for two.
    if !collect(packed, 2 * packed.len() * 8 / 5, runs) {
        return false;
    }
    let plain = best(runs);
    let apart = if separate(runs, separated) { best(separated) } else { (0, None, usize::MAX) };
    let is_separated = apart.2 <= plain.2;
    let (order, common, bits) = if is_separated { apart } else { plain };
    if bits.div_ceil(8) >= packed.len() {
        return false;
    }
    let form = Form { separated: is_separated, order, common };
    out.push(record(form));
    out.extend(common);
    write(if is_separated { separated } else { runs }, form, out);
    true
}

/// Appends runs in the given form.
fn write(runs: &[Run], form: Form, out: &mut Vec<u8>) {
    let mut bits = BitWriter::new(out);
    for &(tag, length) in runs {
        bits.put(u32::from(tag), 4);
        match form.common.map(u32::from) {
            Some(common) if common == length - 1 => bits.put(1, 1),
            Some(_) => {
                bits.put(0, 1);
                bits.put_number(length - 1, form.order);
            }
            None => bits.put_number(length - 1, form.order),
        }
    }
    bits.finish();
}

/// Reads runs into packed tags, which are zero. Gives the bytes used; `None` where the runs do not fill the page exactly.
pub(super) fn read(bytes: &[u8], form: Form, packed: &mut [u8]) -> Option<usize> {
    let granules = packed.len() * 2;
    let mut bits = BitReader::new(bytes);
    let mut at = 0usize;
    while at < granules {
        let tag = bits.take(4)? as u8;
        let value = match form.common {
            Some(common) if bits.take(1)? == 1 => u32::from(common),
            _ => bits.take_number(form.order)?,
        };
        let length = value as usize + 1;
        if length > granules - at {
            return None;
        }
        if tag != 0 {
            fill(packed, at, length, tag);
        }
        at += length;
        if form.separated && tag != 0 && at < granules {
            at += 1;
        }
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
