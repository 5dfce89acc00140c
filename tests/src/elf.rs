//! Cuts from a 64-bit little-endian ELF program what the kernel never loads, so that a debug build fits an initramfs.

/// Bytes of an ELF64 file header.
const HEADER: usize = 64;
const PT_LOAD: u32 = 1;

/// The program up to the end of its last loaded segment, without section headers; anything else comes back as it was.
pub fn loaded_part(mut file: Vec<u8>) -> Vec<u8> {
    let Some(end) = end_of_segments(&file) else { return file };
    file.truncate(end);
    // e_shoff, then e_shnum and e_shstrndx: the section headers are gone.
    file[0x28..0x30].fill(0);
    file[0x3c..0x40].fill(0);
    file
}

/// The file offset after the last PT_LOAD segment, if this is an ELF program whose table makes sense.
fn end_of_segments(file: &[u8]) -> Option<usize> {
    if file.len() < HEADER || !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (word(file, 0x20)?, half(file, 0x36)?, half(file, 0x38)?);
    let ends = (0..count).map(|i| {
        let at = table.checked_add(i * size)?;
        let kind = u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == PT_LOAD { word(file, at + 8)?.checked_add(word(file, at + 32)?) } else { Some(HEADER) }
    });
    let end = ends.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    // A table that is itself cut off would leave nothing to load.
    (end <= file.len() && end > HEADER && table + count * size <= end).then_some(end)
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(8)?)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_loses_its_sections_only() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let cut = loaded_part(whole.clone());
        assert!(cut.len() < whole.len());
        assert_eq!(cut[HEADER..], whole[HEADER..cut.len()]);
        assert_eq!(end_of_segments(&cut), Some(cut.len()));
    }

    #[test]
    fn what_is_no_program_is_left_alone() {
        for file in [&b"#!/bin/sh\n"[..], b"", &[0x7f; 80], b"\x7fELF\x02\x01"] {
            assert_eq!(loaded_part(file.to_vec()), file);
        }
    }

    #[test]
    fn a_segment_past_the_end_is_not_believed() {
        let mut file = vec![0; 256];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20] = 64;
        file[0x36] = 56;
        file[0x38] = 1;
        file[64] = 1;
        file[96..104].fill(0xff);
        assert_eq!(loaded_part(file.clone()), file);
    }
}
