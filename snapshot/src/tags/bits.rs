//! Bits, least significant first, and exp-Golomb numbers among them.
//!
//! Every page that has tags goes through here, at the pause of a snapshot and at the fault of a restore: hence whole words
//! at a time, and one write for a tag and its length.

/// Some bits: their value, and how many, at most 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) value: u32,
    pub(super) bits: u32,
}

impl Code {
    /// `value` (below 2^12) as an exp-Golomb number of order `k`, 0 to 3.
    pub(super) const fn number(value: u32, k: u32) -> Self {
        let high = (value >> k) + 1;
        let extra = high.ilog2();
        let low = value & ((1 << k) - 1);
        let value = 1 << extra | (high ^ 1 << extra) << (extra + 1) | low << (2 * extra + 1);
        Self { value, bits: 2 * extra + 1 + k }
    }

    /// These bits, then those of `next`.
    pub(super) const fn then(self, next: Self) -> Self {
        Self { value: self.value | next.value << self.bits, bits: self.bits + next.bits }
    }
}

/// Appends bits to bytes.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    held: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, held: 0, count: 0 }
    }

    /// Appends bits, at most 32.
    #[inline]
    pub(super) fn put(&mut self, code: Code) {
        self.held |= u64::from(code.value) << self.count;
        self.count += code.bits;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    /// Fills the last byte with zeros.
    pub(super) fn finish(self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.held.to_le_bytes()[..bytes]);
    }
}

/// The exp-Golomb number of order `k` that `bits` begin with, and how many bits it has; `None` for one that no writer makes.
pub(super) fn number_in(bits: u64, k: u32) -> Option<(u32, u32)> {
    let extra = bits.trailing_zeros();
    if extra > 12 {
        return None;
    }
    let rest = (bits >> (extra + 1)) as u32;
    let high = 1 << extra | rest & ((1 << extra) - 1);
    let low = rest >> extra & ((1 << k) - 1);
    Some(((high - 1) << k | low, 2 * extra + 1 + k))
}

/// Takes bits from bytes.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    used: usize,
    held: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0, held: 0, count: 0 }
    }

    /// The next 32 bits or more, none of which is taken by this; zeros after the end of the bytes.
    pub(super) fn peek(&mut self) -> u64 {
        if self.count < 32 {
            if let Some(word) = self.bytes.get(self.used..).and_then(<[u8]>::first_chunk) {
                self.held |= u64::from(u32::from_le_bytes(*word)) << self.count;
                (self.used, self.count) = (self.used + 4, self.count + 32);
            } else {
                self.peek_bytes();
            }
        }
        self.held
    }

    #[cold]
    fn peek_bytes(&mut self) {
        while let (true, Some(byte)) = (self.count < 32, self.bytes.get(self.used)) {
            self.held |= u64::from(*byte) << self.count;
            (self.used, self.count) = (self.used + 1, self.count + 8);
        }
    }

    /// Takes as many of the bits that were peeked at; `None` if there are not so many.
    pub(super) fn skip(&mut self, bits: u32) -> Option<()> {
        self.count = self.count.checked_sub(bits)?;
        self.held >>= bits;
        Some(())
    }

    /// How many bytes were begun, if the bits left in the last are zero.
    pub(super) fn finish(self) -> Option<usize> {
        // Whole bytes that were held and not used go back.
        let (whole, left) = (self.count / 8, self.count % 8);
        let padding = self.held & ((1 << left) - 1);
        (padding == 0).then_some(self.used - whole as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for k in 0..4 {
            for value in 0..4096 {
                let mut bytes = Vec::new();
                let mut writer = BitWriter::new(&mut bytes);
                let code = Code::number(value, k);
                writer.put(code);
                writer.put(Code { value: 5, bits: 3 });
                writer.finish();
                assert_eq!(bytes.len() as u32, (code.bits + 3).div_ceil(8));
                bytes.push(0xff);
                let mut reader = BitReader::new(&bytes);
                assert_eq!(number_in(reader.peek(), k), Some((value, code.bits)));
                reader.skip(code.bits).unwrap();
                assert_eq!(reader.peek() & 7, 5);
                reader.skip(3).unwrap();
                assert_eq!(reader.finish(), Some(bytes.len() - 1));
            }
        }
    }

    #[test]
    fn the_end_of_the_bytes_and_endless_numbers_are_refused() {
        assert_eq!(BitReader::new(&[]).skip(1), None);
        let mut reader = BitReader::new(&[0xff]);
        assert_eq!((reader.peek(), reader.skip(9)), (0xff, None));
        assert_eq!(number_in(0, 0), None);
        assert_eq!(number_in(1 << 13, 0), None);
    }

    #[test]
    fn padding_must_be_zero() {
        let mut reader = BitReader::new(&[0b1000_0001, 0xff]);
        reader.peek();
        assert_eq!(reader.skip(1), Some(()));
        assert_eq!(reader.finish(), None);
    }
}
