//! The container: what is put is found, what is damaged is refused.

use super::*;
use crate::file::{Buffer, ReadAt, WriteAt};
use crate::layout::{PageSize, Region};

fn layout() -> Layout {
    Layout::new(PageSize::K4, vec![Region { gpa: 0, size: 64 * 64 * 4096 }]).unwrap()
}

fn expected(layout: &Layout) -> Expected<'_> {
    Expected { content: Content::Tags, layout, diff: false }
}

fn written(blocks: &[(u64, &[u8])]) -> (Vec<u8>, BlockFileSummary) {
    let (file, layout) = (Buffer::default(), layout());
    let mut writer = BlockFileWriter::new(&file);
    for (number, bytes) in blocks {
        writer.put(*number, bytes).unwrap();
    }
    let summary = writer.finish(&expected(&layout)).unwrap();
    (file.bytes(), summary)
}

fn open(bytes: Vec<u8>) -> Result<BlockFile<Buffer>, BlockFileError> {
    BlockFile::open(Buffer::new(bytes), &expected(&layout()))
}

#[test]
fn blocks_are_found_by_number_in_whatever_order_they_came() {
    let (bytes, summary) =
        written(&[(5, b"five"), (2, b"two"), (5, b"longer than five"), (63, b"z"), (2, b"2")]);
    assert_eq!(summary.size, bytes.len() as u64);
    let file = open(bytes).unwrap();
    assert_eq!((file.size(), file.sum()), (summary.size, summary.sum));
    assert_eq!(file.numbers().collect::<Vec<_>>(), [2, 5, 63]);
    assert_eq!([0, 2, 3, 6, 64].map(|from| file.next(from)), [Some(2), Some(2), Some(5), Some(63), None]);
    let mut block = Vec::new();
    for (number, expected) in [(2, &b"2"[..]), (5, b"longer than five"), (63, b"z")] {
        assert!(file.read(number, &mut block).unwrap());
        assert_eq!(block, expected);
    }
    assert!(!file.read(4, &mut block).unwrap());
}

#[test]
fn an_unfinished_file_has_no_magic() {
    let file = Buffer::default();
    BlockFileWriter::new(&file).put(0, &[1; 100]).unwrap();
    assert!(matches!(open(file.bytes()), Err(BlockFileError::Magic)));
    assert!(matches!(open(Vec::new()), Err(BlockFileError::Magic)));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (good, _) = written(&[(1, b"some block"), (7, b"another block")]);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let found = open(bad).and_then(|file| {
            let mut block = Vec::new();
            file.read(1, &mut block)?;
            file.read(7, &mut block)
        });
        assert!(found.is_err(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(open(good[..length].to_vec()).is_err(), "{length} bytes");
    }
    let longer = [&good[..], b"x"].concat();
    assert!(matches!(open(longer), Err(BlockFileError::Directory { .. })));
}

/// A file whose checksums are right and whose directory is `entries`.
fn forged(entries: &[Entry], blocks: usize) -> Result<BlockFile<Buffer>, BlockFileError> {
    let directory: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
    let header = Header {
        directory: HEADER + blocks as u64,
        entries: entries.len() as u64,
        directory_sum: crc32fast::hash(&directory),
    };
    let layout = layout();
    open([&header.encode(&expected(&layout))[..], &vec![0; blocks], &directory].concat())
}

#[test]
fn a_forged_directory_is_refused() {
    let entry = |number, offset, length| Entry { number, offset, length, sum: 0 };
    let why = |entries: &[Entry]| match forged(entries, 100).unwrap_err() {
        BlockFileError::Entry { index, why } => (index, why),
        other => panic!("{other}"),
    };
    assert_eq!(why(&[entry(3, 64, 1), entry(3, 65, 1)]), (1, "numbers do not ascend"));
    assert_eq!(why(&[entry(64, 64, 1)]), (0, "is beyond the last page"));
    assert_eq!(why(&[entry(0, 64, 0)]), (0, "has a length that no block has"));
    assert_eq!(why(&[entry(0, 64, u32::MAX)]), (0, "has a length that no block has"));
    assert_eq!(why(&[entry(0, 63, 1)]), (0, "lies outside the blocks"));
    assert_eq!(why(&[entry(0, 160, 10)]), (0, "lies outside the blocks"));
    assert_eq!(why(&[entry(0, u64::MAX, 10)]), (0, "lies outside the blocks"));
    assert_eq!(why(&[entry(0, 80, 10), entry(1, 71, 10)]), (0, "overlaps another"));
}

#[test]
fn a_file_of_another_snapshot_or_a_later_version_is_refused() {
    let (good, _) = written(&[(1, b"x")]);
    let changed = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        open(bytes).unwrap_err()
    };
    assert!(matches!(changed(8, 2), BlockFileError::Newer { found: 2 }));
    for (at, name) in
        [(12, "page size"), (16, "pages"), (24, "pages per block"), (28, "flags"), (52, "reserved bytes")]
    {
        assert!(matches!(changed(at, 7), BlockFileError::Other { field, .. } if field == name), "{name}");
    }
    assert!(matches!(changed(40, u32::MAX), BlockFileError::Directory { .. }));
}

#[test]
fn a_directory_that_claims_much_allocates_little() {
    // A sparse file of a terabyte would be read as one bad entry.
    struct Sparse(Vec<u8>);
    impl ReadAt for Sparse {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            buffer.fill(0);
            if offset == 0 {
                buffer[..64].copy_from_slice(&self.0);
            }
            Ok(())
        }
        fn length(&self) -> io::Result<u64> {
            Ok(64 + (1 << 28) * ENTRY as u64)
        }
    }
    let layout = Layout::new(PageSize::K4, vec![Region { gpa: 0, size: 1 << 48 }]).unwrap();
    let header = Header { directory: 64, entries: 1 << 28, directory_sum: 0 }.encode(&expected(&layout));
    let opened = BlockFile::open(Sparse(header.to_vec()), &expected(&layout));
    assert!(matches!(opened, Err(BlockFileError::Entry { index: 0, .. })));
    assert!(Buffer::default().set_length(3).is_ok());
}
