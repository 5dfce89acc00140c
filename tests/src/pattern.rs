//! Content that tells where it belongs, for guests to write and for hosts to verify, and the other way round.

/// Bytes of one word of content.
pub const WORD: u64 = 8;

/// The word at `offset`, a multiple of 8, of the content that `seed` names.
pub fn word(seed: u64, offset: u64) -> u64 {
    let mixed =
        (offset / WORD + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd134_2543_de82_ef95);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Fills `bytes`, which begin at `offset`.
pub fn fill(bytes: &mut [u8], seed: u64, offset: u64) {
    for (at, chunk) in (offset..).step_by(WORD as usize).zip(bytes.chunks_exact_mut(WORD as usize)) {
        chunk.copy_from_slice(&word(seed, at).to_le_bytes());
    }
}

/// How many words of `bytes`, which begin at `offset`, are wrong.
pub fn wrong(bytes: &[u8], seed: u64, offset: u64) -> usize {
    let words = (offset..).step_by(WORD as usize).zip(bytes.chunks_exact(WORD as usize));
    words.filter(|(at, chunk)| **chunk != word(seed, *at).to_le_bytes()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_right_in_its_place_and_nowhere_else() {
        let mut bytes = [0; 4096];
        fill(&mut bytes, 7, 512);
        assert_eq!(wrong(&bytes, 7, 512), 0);
        assert_eq!(wrong(&bytes[8..], 7, 520), 0);
        assert_eq!(wrong(&bytes, 7, 1024), 512);
        assert_eq!(wrong(&bytes, 8, 512), 512);
        bytes[100] ^= 1;
        assert_eq!(wrong(&bytes, 7, 512), 1);
    }
}
