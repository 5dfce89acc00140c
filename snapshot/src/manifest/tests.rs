//! The manifest: exact bytes, and all that is refused.

use super::*;
use crate::layout::{PageSize, Region};

fn example() -> Manifest {
    Manifest {
        id: SnapshotId([0x11; 16]),
        parent: Some(Parent { id: SnapshotId([0x22; 16]), path: "../base".into() }),
        creator: "granule 0.1.0".into(),
        created: 1_764_000_000,
        arch: "aarch64".into(),
        mte: Some(3),
        layout: Layout::new(PageSize::K4, vec![Region { gpa: 0x4000_0000, size: 0x1000_0000 }]).unwrap(),
        config: FileSum::of(b"{}"),
        state: FileSum::of(b""),
        pages: FileSum { size: 64, sum: 1 },
        tags: Some(FileSum { size: 64, sum: 2 }),
    }
}

/// The example with one piece of text replaced and the checksum right again.
fn changed(from: &str, to: &str) -> Result<Manifest, ManifestError> {
    let text = String::from_utf8(example().encode()).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    assert!(rest.contains(from), "{from}");
    let rest = rest.replacen(from, to, 1);
    let sum = crc32fast::hash(rest.as_bytes());
    Manifest::decode(format!("{{\"granule-snapshot\":1,\"crc32\":\"{sum:08x}\",\n{rest}").as_bytes())
}

#[test]
fn is_json_whose_first_line_can_be_read_alone() {
    let bytes = example().encode();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert_eq!(text, include_str!("golden.json"));
    assert_eq!(Manifest::decode(&bytes).unwrap(), example());
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(json["granule-snapshot"], 1);
    assert_eq!(json["files"]["memory"]["size"], 0x1000_0000);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let good = example().encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(Manifest::decode(&good[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn other_versions_are_refused_before_anything_else_is_read() {
    let decode = |text: &str| Manifest::decode(text.as_bytes()).unwrap_err();
    let newer = decode("{\"granule-snapshot\":2,\"crc32\":\"00000000\",\nanything");
    assert_eq!(newer.to_string(), "snapshot format 2 is newer than 1, the newest known");
    let zero = decode("{\"granule-snapshot\":0,\"crc32\":\"00000000\",\n");
    assert!(matches!(zero, ManifestError::NoSuchVersion { found: 0 }));
    for head in ["", "{}", "{\"granule-snapshot\":+1,\"crc32\":\"00000000\",\n", "{\"granule-snapshot\":1}\n"]
    {
        assert!(matches!(decode(head), ManifestError::Head), "{head}");
    }
    let long = vec![b' '; 1 + (1 << 20)];
    assert!(matches!(Manifest::decode(&long), Err(ManifestError::TooLong { .. })));
}

#[test]
fn values_that_no_writer_writes_are_refused() {
    assert!(changed("\"mte\": 3", "\"mte\": 3").is_ok());
    for (from, to, field) in [
        ("\"mte\": 3", "\"mte\": 1", "mte"),
        ("\"mte\": 3", "\"mte\": null", "tags"),
        ("\"page_size\": 4096", "\"page_size\": 8192", "page_size"),
        ("11111111", "1111111G", "id"),
        ("22222222", "2222222A", "id"),
        ("../base", "", "parent path"),
        (
            "\"memory\": {\n      \"size\": 268435456",
            "\"memory\": {\n      \"size\": 268435457",
            "memory size",
        ),
    ] {
        let error = changed(from, to).unwrap_err();
        assert!(
            matches!(&error, ManifestError::Value { field: found, .. } if *found == field),
            "{to}: {error}"
        );
    }
    assert!(matches!(changed("\"gpa\": 1073741824", "\"gpa\": 1"), Err(ManifestError::Layout(_))));
    assert!(matches!(changed("\"arch\"", "\"arsch\""), Err(ManifestError::Shape(_))));
    assert!(matches!(changed("\"created\": 1764000000", "\"created\": -1"), Err(ManifestError::Shape(_))));
}

#[test]
fn is_refused_where_it_would_lose_something() {
    let here = Target { arch: "aarch64", page_size: PageSize::K4, host_mte: Some(3), vm_mte: true };
    let tagged = example();
    let untagged = Manifest { mte: None, tags: None, ..example() };
    assert_eq!(tagged.check_target(&here), Ok(()));
    assert_eq!(untagged.check_target(&Target { vm_mte: false, ..here.clone() }), Ok(()));

    let refusal = |manifest: &Manifest, target| manifest.check_target(&target).unwrap_err();
    assert!(matches!(refusal(&tagged, Target { arch: "x86_64", ..here.clone() }), Refusal::Arch { .. }));
    assert!(matches!(
        refusal(&tagged, Target { page_size: PageSize::K64, ..here.clone() }),
        Refusal::PageSize { snapshot: 4096, host: 65_536 }
    ));
    assert_eq!(refusal(&tagged, Target { host_mte: None, ..here.clone() }), Refusal::HostWithoutMte);
    assert_eq!(refusal(&tagged, Target { vm_mte: false, ..here.clone() }), Refusal::MteOff);
    assert_eq!(
        refusal(&tagged, Target { host_mte: Some(2), ..here.clone() }),
        Refusal::MteLevel { snapshot: 3, host: 2 }
    );
    assert_eq!(refusal(&untagged, here), Refusal::MteOn);
}
