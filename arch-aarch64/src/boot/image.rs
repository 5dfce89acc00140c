//! Tells a plain arm64 `Image` from everything else that people hand over as a kernel.
//!
//! ```text
//!  arm64 Image header (booting.rst, section 4), little endian
//!   0 code0 │ 4 code1 │ 8 text_offset │ 16 image_size │ 24 flags │ 32 … │ 56 "ARM\x64" │ 60 offset of PE header
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};

use thiserror::Error;

/// What is read of a file to tell what it is: the header, the PE header and its section table.
const HEAD: usize = 4096;
const IMAGE_HEADER: usize = 64;
const ARM64_MAGIC: &[u8; 4] = b"ARM\x64";
const FLAG_BIG_ENDIAN: u64 = 1;

/// A file that is a plain arm64 `Image`, as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    text_offset: u64,
    image_size: u64,
    file_size: u64,
}

/// Why a file cannot be booted.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Reading failed.
    #[error("cannot read the kernel file")]
    Read(#[source] io::Error),
    /// A directory, a pipe, a device…
    #[error("the kernel is {0}; it must be a regular file")]
    NotRegular(&'static str),
    /// Something that is known, but not an arm64 `Image`.
    #[error("the kernel file is {what}, not a plain arm64 Image; {}", what.advice())]
    Other {
        /// What it is.
        what: OtherFile,
    },
    /// Shorter than its own header says.
    #[error("the kernel file is truncated: it has {found} bytes, its header speaks of {expected}")]
    Truncated {
        /// Bytes that there must be.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// From before Linux 3.17, which did not say how much memory it needs.
    #[error("the kernel is older than Linux 3.17 (its header gives no image size)")]
    TooOld,
    /// Compiled for big-endian CPUs.
    #[error("the kernel is big-endian; guests start little-endian")]
    BigEndian,
    /// A header that no kernel has.
    #[error("the kernel's header is damaged: {0}")]
    Damaged(&'static str),
}

/// Files that are often given as a kernel by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherFile {
    /// No bytes.
    Empty,
    /// `Image.gz` and most distributions' `vmlinuz`.
    Gzip,
    /// Compressed with xz, zstd, lz4, lzma or bzip2.
    Compressed(&'static str),
    /// `vmlinux`.
    Elf,
    /// An x86 `bzImage`.
    BzImage,
    /// `vmlinuz.efi` with a compressed payload.
    EfiZboot,
    /// Another Windows or EFI program.
    Pe,
    /// A RISC-V `Image`.
    RiscvImage,
    /// A U-Boot `uImage`.
    UImage,
    /// A device tree or a FIT image.
    DeviceTree,
    /// A cpio archive: the initramfs and the kernel are often swapped.
    Cpio,
    /// Nothing that is known here.
    Unknown,
}

impl OtherFile {
    fn advice(self) -> &'static str {
        match self {
            Self::Empty => "give the file that the kernel's build left in arch/arm64/boot/Image",
            Self::Gzip => "decompress it with gunzip first",
            Self::Compressed(_) => "decompress it first",
            Self::Elf => "use arch/arm64/boot/Image of the same build",
            Self::BzImage => "use a kernel built for arm64",
            Self::EfiZboot => "build without CONFIG_EFI_ZBOOT or unpack its payload",
            Self::RiscvImage => "use a kernel built for arm64",
            Self::UImage => "use the Image without U-Boot's header",
            Self::Cpio => "it looks like an initramfs; are the two swapped?",
            Self::Pe | Self::DeviceTree | Self::Unknown => "use arch/arm64/boot/Image of a kernel build",
        }
    }

    /// What the first bytes of a file that is no arm64 `Image` say that it is.
    fn recognise(head: &[u8]) -> Self {
        // Containers of PE are told apart before PE itself.
        let magic_at = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
        let at_start: &[(&[u8], Self)] = &[
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Compressed("xz")),
            (b"\x28\xb5\x2f\xfd", Self::Compressed("zstd")),
            (b"\x02\x21\x4c\x18", Self::Compressed("lz4")),
            (b"\x04\x22\x4d\x18", Self::Compressed("lz4")),
            (b"BZh", Self::Compressed("bzip2")),
            (b"\x5d\0\0", Self::Compressed("lzma")),
            (b"\x7fELF", Self::Elf),
            (b"\x27\x05\x19\x56", Self::UImage),
            (b"\xd0\x0d\xfe\xed", Self::DeviceTree),
            (b"070701", Self::Cpio),
            (b"070702", Self::Cpio),
        ];
        if head.is_empty() {
            return Self::Empty;
        }
        if magic_at(0x202, b"HdrS") && magic_at(0x1fe, b"\x55\xaa") {
            return Self::BzImage;
        }
        if magic_at(0, b"MZ") && magic_at(4, b"zimg") {
            return Self::EfiZboot;
        }
        if magic_at(56, b"RSC\x05") {
            return Self::RiscvImage;
        }
        if magic_at(0, b"MZ") {
            return Self::Pe;
        }
        at_start.iter().find(|(magic, _)| magic_at(0, magic)).map_or(Self::Unknown, |(_, what)| *what)
    }
}

impl std::fmt::Display for OtherFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Gzip => f.write_str("compressed with gzip"),
            Self::Compressed(with) => write!(f, "compressed with {with}"),
            Self::Elf => f.write_str("an ELF file"),
            Self::BzImage => f.write_str("an x86 bzImage"),
            Self::EfiZboot => f.write_str("an EFI zboot image"),
            Self::Pe => f.write_str("a PE program"),
            Self::RiscvImage => f.write_str("a RISC-V Image"),
            Self::UImage => f.write_str("a U-Boot uImage"),
            Self::DeviceTree => f.write_str("a device tree or FIT image"),
            Self::Cpio => f.write_str("a cpio archive"),
            Self::Unknown => f.write_str("of an unknown kind"),
        }
    }
}

impl KernelImage {
    /// Reads the header of an open file and checks that it is a plain arm64 `Image`.
    ///
    /// The file's position is neither used nor changed.
    ///
    /// # Errors
    /// Says what the file is instead.
    pub fn inspect(file: &File) -> Result<Self, ImageError> {
        let metadata = file.metadata().map_err(ImageError::Read)?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            return Err(ImageError::NotRegular(match kind {
                k if k.is_dir() => "a directory",
                k if k.is_fifo() => "a pipe",
                k if k.is_socket() => "a socket",
                k if k.is_char_device() => "a character device",
                k if k.is_block_device() => "a block device",
                _ => "no file",
            }));
        }
        let mut head = [0; HEAD];
        let mut filled = 0;
        while filled < HEAD {
            match file.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ImageError::Read(e)),
            }
        }
        Self::parse(&head[..filled], metadata.len())
    }

    /// What the first bytes of a file of this size say.
    ///
    /// # Errors
    /// Says what the file is instead.
    pub fn parse(head: &[u8], file_size: u64) -> Result<Self, ImageError> {
        if head.get(56..60) != Some(ARM64_MAGIC.as_slice()) {
            return Err(ImageError::Other { what: OtherFile::recognise(head) });
        }
        if head.len() < IMAGE_HEADER {
            return Err(ImageError::Truncated { expected: IMAGE_HEADER as u64, found: file_size });
        }
        let (text_offset, image_size, flags) = (u64_at(head, 8), u64_at(head, 16), u64_at(head, 24));
        if image_size == 0 {
            return Err(ImageError::TooOld);
        }
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        if text_offset >= super::plan::KERNEL_ALIGNMENT {
            return Err(ImageError::Damaged("its text offset is 2 MiB or more"));
        }
        if image_size > 1 << 40 {
            return Err(ImageError::Damaged("its image size is more than a tebibyte"));
        }
        if let Some(expected) = end_of_sections(head)
            && expected > file_size
        {
            return Err(ImageError::Truncated { expected, found: file_size });
        }
        Ok(Self { text_offset, image_size, file_size })
    }

    /// Bytes from a 2 MiB boundary to where the image must lie.
    #[must_use]
    pub fn text_offset(&self) -> u64 {
        self.text_offset
    }

    /// Bytes of memory that the image needs, its zeroed data included.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Bytes to copy from the file. What a file has beyond the image (a signature, padding) is left out.
    #[must_use]
    pub fn bytes_to_load(&self) -> u64 {
        self.file_size.min(self.image_size)
    }
}

/// Where the last section of the PE header ends in the file, if there is such a header. It is the only
/// place where an `Image` tells its own file size.
fn end_of_sections(head: &[u8]) -> Option<u64> {
    let pe = u32_at(head, 60)? as usize;
    if head.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let sections = u16_at(head, pe + 6)?;
    let optional_header = usize::from(u16_at(head, pe + 20)?);
    let table = pe + 24 + optional_header;
    (0..usize::from(sections))
        .map_while(|i| {
            let section = table + i * 40;
            Some(u64::from(u32_at(head, section + 16)?) + u64::from(u32_at(head, section + 20)?))
        })
        .max()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Of a header whose length was checked.
fn u64_at(header: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
