//! The tag codec, byte by byte and by property.

use proptest::prelude::*;

use super::*;

/// Packs tags, one per byte, two to the byte.
fn pack(tags: &[u8]) -> Vec<u8> {
    tags.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

fn encoded(pages: &[Option<Vec<u8>>], page_size: PageSize) -> Vec<u8> {
    let mut block = TagBlock::new(page_size, pages.len(), true);
    for (index, page) in pages.iter().enumerate() {
        if let Some(tags) = page {
            block.set(index, tags);
        }
    }
    let mut bytes = Vec::new();
    block.encode(&mut bytes);
    assert_eq!(TagBlock::decode(&bytes, page_size, pages.len(), true), Ok(block));
    bytes
}

fn one(tags: &[u8]) -> Vec<u8> {
    encoded(&[Some(pack(tags))], PageSize::K4)
}

#[test]
fn pages_without_tags_share_a_byte_and_uniform_ones_take_one() {
    let (zero, three) = (Some(vec![0; 128]), Some(vec![0x33; 128]));
    assert_eq!(encoded(&vec![zero.clone(); 64], PageSize::K4), [0x3f]);
    assert_eq!(
        encoded(&[zero.clone(), zero.clone(), three, None, None, zero], PageSize::K4),
        [0x01, 0x83, 0x41, 0x00]
    );
    assert_eq!(encoded(&[Some(vec![0xff; 2048])], PageSize::K64), [0x8f]);
}

#[test]
fn every_granule_different_is_packed() {
    let tags: Vec<u8> = (0..256).map(|granule| (granule % 15 + 1) as u8).collect();
    let bytes = one(&tags);
    assert_eq!((bytes.len(), bytes[0], bytes[1]), (129, PACKED, 0x21));
}

#[test]
fn one_odd_granule_is_three_runs() {
    let mut tags = vec![0; 256];
    tags[100] = 7;
    // order 3: (0, 100) = 0000, 99 -> high 13, 3 extra bits, low 3; then (7, 1); then (0, 155)
    let bytes = one(&tags);
    assert!(bytes[0] & 0xf8 == RUNS && bytes.len() <= 7, "{bytes:x?}");
}

#[test]
fn objects_with_headers_between_are_separated_runs() {
    // Chunks of 48 bytes: a header granule without a tag, two granules with one.
    let mut tags = vec![0; 256];
    for (index, chunk) in tags.chunks_mut(3).enumerate() {
        chunk[1..].fill((index % 15 + 1) as u8);
    }
    let bytes = one(&tags);
    // For each of 85, 4 bits of tag and one for the common length; the zero granule before the first: 4 + 1 + 1 (order 0).
    assert_eq!(bytes[..2], [RUNS | SEPARATED | COMMON, 1]);
    assert_eq!(bytes.len(), 2 + (85 * 5usize + 6).div_ceil(8));
}

#[test]
fn slab_objects_without_gaps_are_plain_runs() {
    let tags: Vec<u8> = (0..256).map(|granule| (granule / 8 % 15 + 1) as u8).collect();
    let bytes = one(&tags);
    // 32 runs, each of the common length of 8.
    assert_eq!((bytes[0], bytes[1], bytes.len()), (RUNS | COMMON, 7, 2 + 32 * 5 / 8));
}

#[test]
fn bytes_that_are_no_block_are_refused() {
    let decode = |bytes: &[u8], pages, parent| TagBlock::decode(bytes, PageSize::K4, pages, parent);
    assert_eq!(decode(&[], 1, true), Err(TagsError::Short { page: 0 }));
    assert_eq!(decode(&[0x00], 2, true), Err(TagsError::Short { page: 1 }));
    assert_eq!(decode(&[0x01], 1, true), Err(TagsError::TooManyPages { record: 1, page: 0 }));
    assert_eq!(decode(&[0x40], 1, false), Err(TagsError::Record { record: 0x40, page: 0 }));
    for record in [0x80, 0x91, 0x9f, 0xb0, 0xff] {
        assert_eq!(decode(&[record], 1, true), Err(TagsError::Record { record, page: 0 }));
    }
    assert_eq!(decode(&[0x00, 0x00], 1, true), Err(TagsError::Long { bytes: 1 }));
    assert_eq!(decode(&[PACKED; 128], 1, true), Err(TagsError::Short { page: 0 }));
    assert_eq!(decode(&[RUNS, 0xff], 1, true), Err(TagsError::Runs { page: 0 }));
}

#[test]
fn only_a_block_of_one_kind_is_the_default() {
    let mut block = TagBlock::new(PageSize::K4, 3, true);
    assert!(block.is_default(true) && !block.is_default(false));
    block.set(1, &[0; 128]);
    assert!(!block.is_default(true) && !block.is_default(false));
    assert!(TagBlock::new(PageSize::K4, 64, false).is_default(false));
}

/// Tags as programs leave them: runs of many lengths, gaps or none, noise.
fn page(page_size: PageSize) -> impl Strategy<Value = Vec<u8>> {
    let granules = page_size.granules();
    let noise = prop::collection::vec(0u8..16, granules);
    let runs = prop::collection::vec((0u8..16, 1usize..40, 0usize..3), 1..300).prop_map(move |runs| {
        let mut tags: Vec<u8> = runs
            .into_iter()
            .flat_map(|(tag, length, gap)| [vec![0; gap], vec![tag; length]].concat())
            .take(granules)
            .collect();
        tags.resize(granules, 0);
        tags
    });
    prop_oneof![runs, noise, (0u8..16).prop_map(move |tag| vec![tag; granules])].prop_map(|tags| pack(&tags))
}

fn block() -> impl Strategy<Value = (PageSize, Vec<Option<Vec<u8>>>)> {
    prop::sample::select(&PageSize::ALL[..2]).prop_flat_map(|size| {
        (Just(size), prop::collection::vec(prop::option::weighted(0.8, page(size)), 1..6))
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read((size, pages) in block()) {
        let bytes = encoded(&pages, size);
        prop_assert!(bytes.len() <= pages.len() * (1 + size.packed_tags()));
        let sizes = record_sizes(&bytes, size, pages.len(), true).unwrap();
        prop_assert_eq!(sizes.iter().map(|(_, _, size)| size).sum::<usize>(), bytes.len());
        prop_assert_eq!(sizes.iter().map(|(pages, _, _)| pages).sum::<usize>(), pages.len());
    }

    #[test]
    fn pages_of_64_kib_too(tags in page(PageSize::K64)) {
        encoded(&[Some(tags)], PageSize::K64);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), pages in 1usize..=64) {
        let _ = TagBlock::decode(&bytes, PageSize::K4, pages, true);
    }
}
