//! Bits, least significant first, and exp-Golomb numbers among them.

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

    /// Appends the low `count` bits of `value`; at most 32, the others zero.
    pub(super) fn put(&mut self, value: u32, count: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Appends `value` as an exp-Golomb number of order `k`.
    pub(super) fn put_number(&mut self, value: u32, k: u32) {
        let high = (value >> k) + 1;
        let extra = high.ilog2();
        self.put(1 << extra, extra + 1);
        self.put(high ^ 1 << extra, extra);
        self.put(value & ((1 << k) - 1), k);
    }

    /// Fills the last byte with zeros.
    pub(super) fn finish(self) {
        if self.count > 0 {
            self.out.push(self.held as u8);
        }
    }
}

/// Bits that `value` takes as an exp-Golomb number of order `k`.
pub(super) fn number_bits(value: u32, k: u32) -> usize {
    2 * ((value >> k) + 1).ilog2() as usize + 1 + k as usize
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

    /// The next `count` bits, at most 32; `None` at the end of the bytes.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        while self.count < count {
            self.held |= u64::from(*self.bytes.get(self.used)?) << self.count;
            self.used += 1;
            self.count += 8;
        }
        let value = (self.held & ((1u64 << count) - 1)) as u32;
        self.held >>= count;
        self.count -= count;
        Some(value)
    }

    /// The next exp-Golomb number of order `k`; `None` at the end, or for one that no writer makes.
    pub(super) fn take_number(&mut self, k: u32) -> Option<u32> {
        let mut extra = 0;
        while self.take(1)? == 0 {
            extra += 1;
            if extra > 16 {
                return None;
            }
        }
        let high = 1 << extra | self.take(extra)?;
        Some((high - 1) << k | self.take(k)?)
    }

    /// How many bytes were begun, if the bits left in the last are zero.
    pub(super) fn finish(self) -> Option<usize> {
        (self.count < 8 && self.held == 0).then_some(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_take_as_long_as_said() {
        for k in 0..4 {
            for value in (0..5000).chain([65_535]) {
                let mut bytes = Vec::new();
                let mut writer = BitWriter::new(&mut bytes);
                writer.put_number(value, k);
                writer.finish();
                assert_eq!(bytes.len(), number_bits(value, k).div_ceil(8));
                let mut reader = BitReader::new(&bytes);
                assert_eq!(reader.take_number(k), Some(value));
                assert_eq!(reader.finish(), Some(bytes.len()));
            }
        }
    }

    #[test]
    fn the_end_of_the_bytes_and_endless_numbers_are_refused() {
        assert_eq!(BitReader::new(&[]).take(1), None);
        assert_eq!(BitReader::new(&[0xff]).take(9), None);
        assert_eq!(BitReader::new(&[0; 64]).take_number(0), None);
    }

    #[test]
    fn padding_must_be_zero() {
        let mut reader = BitReader::new(&[0b1000_0001]);
        assert_eq!(reader.take(1), Some(1));
        assert_eq!(reader.finish(), None);
    }
}
