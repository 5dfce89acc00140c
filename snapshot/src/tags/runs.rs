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

use super::bits::{BitReader, BitWriter, Code, number_in};

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

/// Finds the runs of a page and gives their number; `None` if there is no room, or the page is not of a separated form and
/// should be.
fn find_runs<const SEPARATED: bool>(packed: &[u8], runs: &mut [Run]) -> Option<usize> {
    let mut slots = runs.iter_mut();
    let room = slots.len();
    let mut tag = u32::from(packed[0] & 0xf);
    // The first granule that no run has yet; one more after a tag in a separated form.
    let mut free = 0;
    let mut end_run = |start: u32, next: u32| {
        if start > free {
            *slots.next()? = ((start - free - 1) << 4 | tag) as Run;
        } else if tag != 0 {
            return None;
        }
        free = start;
        if SEPARATED && tag != 0 {
            if next != 0 {
                return None;
            }
            free += 1;
        }
        tag = next;
        Some(())
    };
    // So that the first granule never differs from the one before it.
    let mut last = u64::from(packed[0] & 0xf);
    let mut first = 0;
    for word in packed.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        // A nibble that differs from the one before it begins a run.
        let mut differs = word ^ (word << 4 | last);
        last = word >> 60;
        differs |= differs >> 2;
        differs |= differs >> 1;
        differs &= 0x1111_1111_1111_1111;
        while differs != 0 {
            let bit = differs.trailing_zeros();
            differs &= differs - 1;
            end_run(first + bit / 4, (word >> bit) as u32 & 0xf)?;
        }
        first += 16;
    }
    end_run(first, 0)?;
    Some(room - slots.len())
}

/// Room for the runs of a page, used again for the next.
#[derive(Default)]
pub(super) struct Scratch {
    runs: Vec<Run>,
}

/// Lengths, less one, below this are in tables.
const KNOWN: usize = 64;

/// What stands for a tag of 0 and each known length in the forms of each order, and the same in those with a common length.
static CODES: [[[Code; KNOWN]; 4]; 2] = {
    let mut codes = [[[Code { value: 0, bits: 0 }; KNOWN]; 4]; 2];
    let mut index = 0;
    while index < 2 * 4 * KNOWN {
        let (common, order, value) = (index / KNOWN / 4, index / KNOWN % 4, index % KNOWN);
        let tag = Code { value: 0, bits: 4 + common as u32 };
        codes[common][order][value] = tag.then(Code::number(value as u32, order as u32));
        index += 1;
    }
    codes
};

/// The bits of each known length as a number of order 0 in the lowest 16 bits, of order 1 in the next, and so on. The sums over
/// all runs of a page fit: its lengths together are 4096 at the most.
static BITS: [u64; KNOWN] = {
    let mut bits = [0; KNOWN];
    let mut value = 0;
    while value < KNOWN {
        bits[value] = all_bits(value as u32);
        value += 1;
    }
    bits
};

fn bits_of(value: usize) -> u64 {
    BITS.get(value).copied().unwrap_or_else(|| all_bits(value as u32))
}

const fn all_bits(value: u32) -> u64 {
    let (mut all, mut order) = (0, 4);
    while order > 0 {
        order -= 1;
        all = all << 16 | Code::number(value, order).bits as u64;
    }
    all
}

/// Appends a page in a short form, if that is shorter than packed tags, with its record byte `record`.
pub(super) fn encode(
    packed: &[u8],
    record: impl Fn(Form) -> u8,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> bool {
    // A run takes at least 5 bits; in a separated form it stands for two.
    let most = 2 * packed.len() * 8 / 5;
    scratch.runs.resize(most + 1, 0);
    // Leaving zeros out is hardly ever longer: no need to try both.
    let apart = find_runs::<true>(packed, &mut scratch.runs);
    let found = apart.or_else(|| find_runs::<false>(packed, &mut scratch.runs));
    let Some(runs) = found.and_then(|found| scratch.runs.get(..found)) else { return false };
    let (order, common, bits) = shortest(runs);
    if bits.div_ceil(8) >= packed.len() {
        return false;
    }
    out.push(record(Form { separated: apart.is_some(), order: order as u32, common }));
    out.extend(common);
    let codes = &CODES[usize::from(common.is_some())][order];
    let often = common.map_or(u16::MAX, u16::from);
    let mut bits = BitWriter::new(out);
    for run in runs {
        let value = run >> 4;
        let code = if value == often {
            Code { value: 1 << 4, bits: 5 }
        } else if let Some(code) = codes.get(usize::from(value)) {
            *code
        } else {
            Code { value: 0, bits: codes[0].bits - 1 - order as u32 }
                .then(Code::number(value.into(), order as u32))
        };
        bits.put(Code { value: code.value | u32::from(run & 0xf), bits: code.bits });
    }
    bits.finish();
    true
}

/// The order and the common length with which the runs are shortest, and their bits.
fn shortest(runs: &[Run]) -> (usize, Option<u8>, usize) {
    // Of the lengths that can be common.
    let mut counts = [0u16; 256];
    let (mut often_count, mut sums) = (0, 0);
    for run in runs {
        let value = usize::from(run >> 4);
        if let Some(count) = counts.get_mut(value) {
            *count += 1;
            often_count = often_count.max(*count);
        }
        sums += bits_of(value);
    }
    // Of several the first, found soon.
    let counts_most = |value: &usize| counts.get(*value) == Some(&often_count);
    let often = runs.iter().map(|run| usize::from(run >> 4)).find(counts_most).unwrap_or_default();
    let in_order = |all: u64, order: usize| (all >> (16 * order)) as usize & 0xffff;
    let mut best = (0, None, usize::MAX);
    for order in 0..4 {
        let bits = in_order(sums, order);
        let without = 4 * runs.len() + bits;
        let with = 8 + 5 * runs.len() + bits - usize::from(often_count) * in_order(bits_of(often), order);
        if without < best.2 {
            best = (order, None, without);
        }
        if with < best.2 {
            best = (order, Some(often as u8), with);
        }
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
