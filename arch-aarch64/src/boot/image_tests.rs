use std::io::Write;

use super::*;

/// The head of an `Image` with a PE header of two sections, the last of which ends at `file_size`.
fn image_head(image_size: u64, flags: u64, file_size: u32) -> Vec<u8> {
    let mut head = vec![0; 512];
    head[0..2].copy_from_slice(b"MZ");
    head[16..24].copy_from_slice(&image_size.to_le_bytes());
    head[24..32].copy_from_slice(&flags.to_le_bytes());
    head[56..60].copy_from_slice(b"ARM\x64");
    head[60..64].copy_from_slice(&64_u32.to_le_bytes());
    head[64..68].copy_from_slice(b"PE\0\0");
    head[70..72].copy_from_slice(&2_u16.to_le_bytes());
    head[84..86].copy_from_slice(&160_u16.to_le_bytes());
    let table = 64 + 24 + 160;
    for (section, (size, at)) in
        [(0x1000_u32, 0x1000_u32), (file_size - 0x2000, 0x2000)].into_iter().enumerate()
    {
        let entry = table + section * 40;
        head[entry + 16..entry + 20].copy_from_slice(&size.to_le_bytes());
        head[entry + 20..entry + 24].copy_from_slice(&at.to_le_bytes());
    }
    head
}

fn refusal(head: &[u8]) -> String {
    KernelImage::parse(head, head.len() as u64).expect_err("refused").to_string()
}

fn with(at: usize, magic: &[u8]) -> Vec<u8> {
    let mut head = vec![0; 1024];
    head[at..at + magic.len()].copy_from_slice(magic);
    head
}

#[test]
fn a_plain_image_is_taken_with_what_its_header_says() {
    let image = KernelImage::parse(&image_head(0x10_0000, 0xa, 0x8_0000), 0x8_0000).expect("an Image");
    assert_eq!((image.text_offset(), image.image_size(), image.bytes_to_load()), (0, 0x10_0000, 0x8_0000));
}

#[test]
fn an_image_without_a_pe_header_is_taken() {
    let mut head = image_head(0x10_0000, 0, 0x8_0000);
    head[60..64].fill(0);
    KernelImage::parse(&head, 0x8_0000).expect("an Image");
}

#[test]
fn what_follows_the_image_in_the_file_is_not_loaded() {
    let image = KernelImage::parse(&image_head(0x10_0000, 0, 0x8_0000), 0x20_0000).expect("an Image");
    assert_eq!(image.bytes_to_load(), 0x10_0000);
}

#[test]
fn a_truncated_image_is_refused_with_both_sizes() {
    let error = KernelImage::parse(&image_head(0x10_0000, 0, 0x8_0000), 0x7_ffff).expect_err("refused");
    assert!(matches!(error, ImageError::Truncated { expected: 0x8_0000, found: 0x7_ffff }), "{error}");
    let mut head = image_head(0x10_0000, 0, 0x8_0000);
    head.truncate(61);
    assert!(matches!(KernelImage::parse(&head, 61), Err(ImageError::Truncated { expected: 64, found: 61 })));
}

#[test]
fn images_that_cannot_run_are_refused() {
    let parse = |head: &[u8]| KernelImage::parse(head, 0x8_0000).expect_err("refused");
    assert!(matches!(parse(&image_head(0, 0, 0x8_0000)), ImageError::TooOld));
    assert!(matches!(parse(&image_head(0x10_0000, 1, 0x8_0000)), ImageError::BigEndian));
    let mut far = image_head(0x10_0000, 0, 0x8_0000);
    far[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(parse(&far), ImageError::Damaged(_)));
    assert!(matches!(parse(&image_head(u64::MAX, 0, 0x8_0000)), ImageError::Damaged(_)));
}

#[test]
fn other_files_are_refused_under_their_own_names() {
    let mut bzimage = with(0x202, b"HdrS");
    bzimage[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    bzimage[0..2].copy_from_slice(b"MZ");
    let mut zboot = with(4, b"zimg");
    zboot[0..2].copy_from_slice(b"MZ");
    for (head, what) in [
        (vec![], "empty"),
        (with(0, b"\x1f\x8b\x08"), "compressed with gzip"),
        (with(0, b"\xfd7zXZ\0"), "compressed with xz"),
        (with(0, b"\x28\xb5\x2f\xfd"), "compressed with zstd"),
        (with(0, b"\x7fELF"), "an ELF file"),
        (bzimage, "an x86 bzImage"),
        (zboot, "an EFI zboot image"),
        (with(0, b"MZ"), "a PE program"),
        (with(56, b"RSC\x05"), "a RISC-V Image"),
        (with(0, b"\x27\x05\x19\x56"), "a U-Boot uImage"),
        (with(0, b"\xd0\x0d\xfe\xed"), "a device tree or FIT image"),
        (with(0, b"070701"), "a cpio archive"),
        (b"#!/bin/sh\n".to_vec(), "of an unknown kind"),
        (vec![0; 4096], "of an unknown kind"),
    ] {
        let message = refusal(&head);
        assert!(
            message.starts_with(&format!("the kernel file is {what}, not a plain arm64 Image; ")),
            "{message}"
        );
    }
}

#[test]
fn damaged_pe_headers_do_not_confuse_the_reader() {
    let mut head = image_head(0x10_0000, 0, 0x8_0000);
    for at in 60..128 {
        let kept = head[at];
        for byte in [0, 0x7f, 0xff] {
            head[at] = byte;
            // Whatever the answer is: no panic.
            let _ = KernelImage::parse(&head, 0x8_0000);
        }
        head[at] = kept;
    }
}

#[test]
fn directories_and_devices_are_refused_as_such() {
    let directory = File::open("/").expect("the root directory opens");
    assert!(matches!(KernelImage::inspect(&directory), Err(ImageError::NotRegular("a directory"))));
    let device = File::open("/dev/null").expect("the null device opens");
    assert!(matches!(KernelImage::inspect(&device), Err(ImageError::NotRegular("a character device"))));
}

#[test]
fn inspecting_neither_uses_nor_moves_the_position_of_the_file() {
    let mut file = vmm_sys_util::tempfile::TempFile::new().expect("a temporary file").into_file();
    file.write_all(&image_head(0x1000, 0, 0x2001)).expect("written");
    file.set_len(0x3000).expect("extended");
    KernelImage::inspect(&file).expect("an Image");
    assert_eq!(std::io::Seek::stream_position(&mut file).expect("a position"), 512);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut head in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
                                       size in proptest::num::u64::ANY) {
        if let Some(magic) = head.get_mut(56..60) {
            magic.copy_from_slice(b"ARM\x64");
        }
        let _ = KernelImage::parse(&head, size);
    }
}
