//! The golden snapshot: a directory as text, `file NAME LENGTH`, then `at OFFSET` and lines of hexadecimal digits.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const TEXT: &str = include_str!("../golden/tiny-1.txt");

/// Makes the directory.
///
/// # Panics
/// If it cannot be written, or is there already.
pub fn unpack(directory: &str) {
    fs::create_dir(directory).unwrap_or_else(|e| panic!("{directory}: {e}"));
    let (mut file, mut at) = (None, 0);
    for line in TEXT.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["file", name, length] => {
                let length = length.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
                let made = File::create(format!("{directory}/{name}"));
                let sized = made.and_then(|made| made.set_len(length).map(|()| made));
                file = Some(sized.unwrap_or_else(|e| panic!("{directory}/{name}: {e}")));
            }
            ["at", offset] => at = offset.parse().unwrap_or_else(|e| panic!("{line:?}: {e}")),
            [digits] => {
                let bytes: Vec<u8> = digits.as_bytes().chunks(2).map(byte).collect();
                let written = file.as_ref().map(|file| file.write_all_at(&bytes, at));
                assert!(matches!(written, Some(Ok(()))), "{directory}: {written:?}");
                at += bytes.len() as u64;
            }
            _ => panic!("{line:?}"),
        }
    }
}

fn byte(digits: &[u8]) -> u8 {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u8::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}
