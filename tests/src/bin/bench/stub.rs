//! A kernel that does nothing: the real Image with other code at its entry.
//!
//! Its header (Linux Documentation/arch/arm64/booting.rst) and size stay, so a monitor has the same work with it.

/// What it writes to the serial port.
pub const MARK: &str = "!";

/// `b 0x40`: over the header, to the code.
const ENTRY: u32 = 0x1400_0010;
/// Where the code is put: behind the header's 64 bytes.
const CODE_AT: usize = 0x40;

const CODE: [u32; 12] = [
    0xd2a1_2001, // mov  x1, #0x09000000      PL011, where both monitors have it
    0x5280_6022, // mov  w2, #0x301           UARTEN | TXE | RXE
    0xb900_3022, // str  w2, [x1, #0x30]      UARTCR
    0x5280_0422, // mov  w2, #'!'
    0x3900_0022, // strb w2, [x1]             UARTDR
    0x5280_0142, // mov  w2, #'\n'
    0x3900_0022, // strb w2, [x1]
    0x5280_0100, // mov  w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16 PSCI SYSTEM_OFF
    0xd400_0002, // hvc  #0
    0xd503_207f, // wfi
    0x17ff_ffff, // b    .-4
];

/// Makes it of a real Image.
pub fn of(mut image: Vec<u8>) -> Vec<u8> {
    put(&mut image, 0, ENTRY);
    for (number, &word) in CODE.iter().enumerate() {
        put(&mut image, CODE_AT + 4 * number, word);
    }
    image
}

fn put(image: &mut [u8], at: usize, word: u32) {
    if let Some(place) = image.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_stays_but_for_its_first_instruction() {
        let image: Vec<u8> = (0..=255).collect();
        let stub = of(image.clone());
        assert_eq!(stub[..4], [0x10, 0, 0, 0x14]);
        assert_eq!(stub[4..64], image[4..64]);
        assert_eq!(stub[64..68], [0x01, 0x20, 0xa1, 0xd2]);
        assert_eq!(stub.len(), image.len());
    }
}
