//! What the fuzzers of the snapshot format do with bytes: nothing may panic, and what is read must mean the same when
//! it is written and read again. The project's tests run the same functions on a few thousand inputs.

use granule_snapshot::block_file::{BlockFile, BlockFileWriter, Content, Expected};
use granule_snapshot::chunk::{CHUNK_HEADER, Chunk, ChunkHeader};
use granule_snapshot::data::DataBlock;
use granule_snapshot::file::Buffer;
use granule_snapshot::layout::{Layout, PageSize, Region};
use granule_snapshot::manifest::Manifest;
use granule_snapshot::memory::{MemoryFiles, MemoryLayer};
use granule_snapshot::state::StateReader;
use granule_snapshot::tags::{TagBlock, record_sizes};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("manifest", manifest),
    ("state", state),
    ("tags", tags),
    ("data", data),
    ("block_file", block_file),
    ("chunk", chunk),
    ("memory", memory),
];

/// 130 pages: two whole blocks and one of two pages.
pub fn layout() -> Layout {
    Layout::new(PageSize::K4, vec![Region { gpa: 0, size: 130 * 4096 }]).expect("whole pages")
}

/// `manifest.json`. With the right checksum put in, so that what is behind it is reached.
pub fn manifest(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        if let Ok(manifest) = Manifest::decode(bytes) {
            let again = Manifest::decode(&manifest.encode()).expect("what is written can be read");
            assert_eq!(again, manifest);
        }
    };
    read(bytes);
    let rest = bytes.split(|byte| *byte == b'\n').next().map_or(bytes, |line| &bytes[line.len()..]);
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    let head = format!("{{\"granule-snapshot\":1,\"crc32\":\"{:08x}\",\n", crc32fast::hash(rest));
    read(&[head.as_bytes(), rest].concat());
}

/// `state.json`.
pub fn state(bytes: &[u8]) {
    let Ok(mut state) = StateReader::decode(bytes) else { return };
    let names: Vec<_> = state.left().map(|(name, version)| (name.clone(), version)).collect();
    for (name, version) in names {
        state.take::<serde_json::Value>(&name.kind, &name.id, version).expect("is there and of that version");
    }
    state.finish().expect("all was taken");
}

/// A block of tags; the first byte says of how many pages, of which size, in a diff or not.
pub fn tags(bytes: &[u8]) {
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let (pages, parent) = (usize::from(how & 0x3f) + 1, how & 0x40 != 0);
    let size = if how & 0x80 != 0 { PageSize::K16 } else { PageSize::K4 };
    let Ok(block) = TagBlock::decode(bytes, size, pages, parent) else { return };
    let mut written = Vec::new();
    block.encode(&mut written);
    assert!(written.len() <= pages * (1 + size.packed_tags()));
    assert_eq!(TagBlock::decode(&written, size, pages, parent).as_ref(), Ok(&block));
    let sizes = record_sizes(bytes, size, pages, parent).expect("was read before");
    assert_eq!(sizes.iter().map(|(_, _, size)| size).sum::<usize>(), bytes.len());
}

/// A block of `pages`; the first byte says of how many pages, in a diff or not.
pub fn data(bytes: &[u8]) {
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let (pages, parent) = (usize::from(how & 0x3f) + 1, how & 0x40 != 0);
    let Ok(block) = DataBlock::decode(bytes, pages, parent) else { return };
    let mut written = Vec::new();
    block.encode(pages, parent, &mut written);
    assert_eq!(written, bytes, "there is one way to write it");
}

/// A file of blocks: as it is, and with right checksums for header and directory.
pub fn block_file(bytes: &[u8]) {
    let layout = layout();
    let expected = Expected { content: Content::Tags, layout: &layout, diff: false };
    let read = |bytes: Vec<u8>| {
        let Ok(file) = BlockFile::open(Buffer::new(bytes), &expected) else { return };
        let (copy, mut block) = (Buffer::default(), Vec::new());
        let mut writer = BlockFileWriter::new(&copy);
        let mut numbers = Vec::new();
        for number in file.numbers() {
            if let Ok(found) = file.read(number, &mut block) {
                assert!(found);
                writer.put(number, &block).expect("memory is never full");
                numbers.push(number);
            }
        }
        writer.finish(&expected).expect("memory is never full");
        let copy = BlockFile::open(copy, &expected).expect("what is written can be read");
        assert!(copy.numbers().eq(numbers));
    };
    read(bytes.to_vec());
    read(with_right_sums(bytes));
}

/// A file of blocks whose header and directory have right checksums, if it has these at all.
fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 64 {
        let at = u64::from_le_bytes(bytes[32..40].try_into().expect("eight bytes"));
        let directory = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).map_or(0, crc32fast::hash);
        bytes[48..52].copy_from_slice(&directory.to_le_bytes());
        let header = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&header.to_le_bytes());
    }
    bytes
}

/// A chunk from the wire, as it is and with the right checksum.
pub fn chunk(bytes: &[u8]) {
    let layout = layout();
    let read = |bytes: &[u8]| {
        let Some((header, body)) = bytes.split_first_chunk::<CHUNK_HEADER>() else { return };
        let Ok(header) = ChunkHeader::decode(header, &layout) else { return };
        assert!(header.body_length() <= 64 * (4096 + 129) + 272);
        for diff in [false, true] {
            if let Ok(chunk) = Chunk::decode(&header, body, &layout, diff) {
                let mut written = Vec::new();
                chunk.encode(&layout, diff, &mut written);
                let (header, body) = written.split_first_chunk().expect("a header at least");
                let header = ChunkHeader::decode(header, &layout).expect("what is sent can be received");
                assert_eq!(Chunk::decode(&header, body, &layout, diff).expect("as sent"), chunk);
            }
        }
    };
    read(bytes);
    let mut summed = bytes.to_vec();
    if let Some(Ok(header)) = bytes.first_chunk().map(|header| ChunkHeader::decode(header, &layout)) {
        let raw = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize * 4096;
        let parts = CHUNK_HEADER + header.body_length() - raw;
        if let Some(parts) = bytes.get(CHUNK_HEADER..parts) {
            let mut sum = crc32fast::Hasher::new();
            sum.update(&bytes[..28]);
            sum.update(parts);
            summed[28..32].copy_from_slice(&sum.finalize().to_le_bytes());
        }
        read(&summed);
    }
}

/// Memory files: the first two bytes say how many bytes `pages` has, the rest is `tags`.
pub fn memory(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk() else { return };
    let Some((pages, tags)) = bytes.split_at_checked(u16::from_le_bytes(*length).into()) else { return };
    for diff in [false, true] {
        let files = MemoryFiles {
            memory: Buffer::new(vec![0; 130 * 4096]),
            pages: Buffer::new(with_right_sums(pages)),
            tags: Some(Buffer::new(with_right_sums(tags))),
        };
        let Ok(mut layer) = MemoryLayer::open(files, layout(), diff) else { continue };
        let (mut data, mut packed) = ([0; 4096], [0; 128]);
        for page in 0..131 {
            let _ = layer.read_data(page, &mut data);
            let _ = layer.read_tags(page, &mut packed);
        }
    }
}
