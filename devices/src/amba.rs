//! What Arm's PrimeCell peripherals have in common: 32-bit registers, and identification at the end of the page.

/// The identification registers at 0xfe0: four bytes of peripheral id, four of component id.
pub(crate) fn id_register(peripheral: [u8; 4], offset: u64) -> Option<u32> {
    if !(0xfe0..=0xffc).contains(&offset) || !offset.is_multiple_of(4) {
        return None;
    }
    let index = (offset as usize - 0xfe0) / 4;
    let byte = if index < 4 { peripheral[index] } else { COMPONENT_ID[index - 4] };
    Some(u32::from(byte))
}

const COMPONENT_ID: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];

/// Reads `data.len()` bytes at `offset` out of the 32-bit register that lies there; what is beyond it reads as zero.
pub(crate) fn read(offset: u64, data: &mut [u8], register: impl FnOnce(u64) -> u32) {
    let lane = (offset % 4) as usize;
    let bytes = register(offset - lane as u64).to_le_bytes();
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(lane + index).copied().unwrap_or(0);
    }
}

/// The value of a store to a register's first byte, and on; `None` for stores into the middle of one.
pub(crate) fn written(offset: u64, data: &[u8]) -> Option<u32> {
    if !offset.is_multiple_of(4) || data.is_empty() {
        return None;
    }
    let byte = |index: usize| data.get(index).copied().unwrap_or(0);
    Some(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
}
