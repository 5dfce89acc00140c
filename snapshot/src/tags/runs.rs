//! The tags of one page as runs of equal tags.
//!
//! A heap page is small objects side by side, each with a tag of its own: runs of 2 to 8 granules. A run is its tag (4
//! bits) and its length less one (an exp-Golomb number of the order that suits the page, 0 to 3). glibc leaves the
//! granule before each object, which holds the chunk's header, untagged; in the *separated* form that one zero granule
//! after every tagged run is not written at all. Linux's KASAN tags slab objects without gaps: the plain form.

use super::bits::{BitReader, BitWriter, number_bits};

/// Which of the eight forms of a run-length coded page this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// After each run of a tag that is not zero comes one granule of zero.
    pub(super) separated: bool,
    /// The order of the exp-Golomb numbers.
    pub(super) order: u32,
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

/// The runs that the separated form writes: `f` for each. False if the page is not of that form.
fn each_separated(runs: &[Run], mut f: impl FnMut(Run)) -> bool {
    let mut after_tag = false;
    for &(tag, length) in runs {
        match (tag, after_tag) {
            (0, true) if length == 1 => after_tag = false,
            (0, true) => {
                f((0, length - 1));
                after_tag = false;
            }
            (0, false) => f((0, length)),
            (_, true) => return false,
            (_, false) => {
                f((tag, length));
                after_tag = true;
            }
        }
    }
    true
}

/// Bits of runs by order.
#[derive(Default)]
struct Cost([usize; 4]);

impl Cost {
    fn add(&mut self, (_, length): Run) {
        for (order, bits) in (0u32..).zip(&mut self.0) {
            *bits += 4 + number_bits(length - 1, order);
        }
    }

    fn best(&self) -> (u32, usize) {
        (0u32..).zip(self.0).min_by_key(|(_, bits)| *bits).expect("four of them")
    }
}

/// The shortest form of a page with the bytes that it takes, if it is shorter than packed tags. Leaves its runs in `runs`.
pub(super) fn shortest(packed: &[u8], runs: &mut Vec<Run>) -> Option<(Form, usize)> {
    // A run takes at least 5 bits; in the separated form it stands for two.
    let limit = 2 * packed.len() * 8 / 5;
    if !collect(packed, limit, runs) {
        return None;
    }
    let (mut plain, mut separated) = (Cost::default(), Cost::default());
    runs.iter().for_each(|run| plain.add(*run));
    let is_separated = each_separated(runs, |run| separated.add(run));
    let (plain_order, plain_bits) = plain.best();
    let (separated_order, separated_bits) = separated.best();
    let (form, bits) = if is_separated && separated_bits <= plain_bits {
        (Form { separated: true, order: separated_order }, separated_bits)
    } else {
        (Form { separated: false, order: plain_order }, plain_bits)
    };
    let bytes = bits.div_ceil(8);
    (bytes < packed.len()).then_some((form, bytes))
}

/// Appends runs in the given form.
pub(super) fn write(runs: &[Run], form: Form, out: &mut Vec<u8>) {
    let mut bits = BitWriter::new(out);
    let mut put = |(tag, length): Run| {
        bits.put(u32::from(tag), 4);
        bits.put_number(length - 1, form.order);
    };
    if form.separated {
        each_separated(runs, put);
    } else {
        runs.iter().for_each(|run| put(*run));
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
        let length = bits.take_number(form.order)? as usize + 1;
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
