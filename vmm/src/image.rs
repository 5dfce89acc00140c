//! Opens disk images: for `control`, and for a device process that a person starts.
//!
//! ```text
//!  open ─► a file or block device? ─► lock ─► what format? ─► direct I/O ─► size
//! ```
//! The lock is one of the open file description: it lives as long as any process has the descriptor, whoever opened it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;

use granule_devices::blk::{Alignment, SECTOR, Serial};
use rustix::fs::{AtFlags, OFlags, SeekFrom, StatxFlags, fcntl_getfl, fcntl_setfl, seek, statx};

/// How an image is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Whether it is only read.
    pub readonly: bool,
    /// Whether the page cache is bypassed.
    pub direct: bool,
    /// Its format, as far as it is known.
    pub kind: ImageKind,
    /// Whether the whole file is locked, and not only the bytes that it has.
    pub lock_all: bool,
}

/// What is known of an image's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// The bytes of the disk and nothing else, whatever they look like.
    Raw,
    /// QEMU's format, without a backing file.
    Qcow2,
    /// Raw, unless it looks like something else; the guest is then kept from making it look so.
    Unknown,
}

impl ImageKind {
    /// As on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Unknown => "unknown",
        }
    }
}

impl FromStr for ImageKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = [Self::Raw, Self::Qcow2, Self::Unknown].into_iter().find(|kind| kind.name() == word);
        known.ok_or_else(|| "not raw, qcow2 or unknown".to_owned())
    }
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The system refused to open it.
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    /// It is a directory, a FIFO, ….
    #[error("it is neither a file nor a block device")]
    Kind,
    /// Somebody else uses it.
    #[error("it is locked: another process uses it{}", if *.readonly { " for writing" } else { "" })]
    Locked {
        /// Whether it was to be read only.
        readonly: bool,
    },
    /// The file system has no locks.
    #[error("it cannot be locked")]
    Lock(#[source] io::Error),
    /// It is shorter than a sector.
    #[error("it is empty: it has {0} bytes, and a disk has at least {SECTOR}")]
    Empty(u64),
    /// It is something else than the bytes of a disk.
    #[error("it has the header of a {0} image; say so by image_type, or Raw if it is none")]
    Format(&'static str),
    /// It is no image of the format that it is said to have.
    #[error("it has no qcow2 header")]
    NotQcow2,
    /// It is built on another file.
    #[error("it is built on another file, which is not supported; flatten it, for example with qemu-img")]
    NotWhole,
    /// Direct access is for raw images.
    #[error("a qcow2 image has no direct access")]
    NotDirect,
    /// The file system has no direct I/O.
    #[error("its file system has no direct access")]
    Direct(#[source] io::Error),
    /// A look at it failed.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

impl ImageError {
    /// The key of the disk's configuration that is at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Format(_) | Self::NotQcow2 => "image_type",
            Self::Direct(_) | Self::NotDirect => "direct",
            _ => "path",
        }
    }
}

/// Opens and locks an image.
pub fn open(path: &Path, wanted: Wanted) -> Result<File, ImageError> {
    let mut options = OpenOptions::new();
    // A FIFO is told apart before anything can block on it.
    options.read(true).write(!wanted.readonly).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK);
    let file = options.open(path).map_err(ImageError::Open)?;
    let kind = file.metadata().map_err(ImageError::Read)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::Kind);
    }
    let size = seek(&file, SeekFrom::End(0)).map_err(|errno| ImageError::Read(errno.into()))?;
    if size < SECTOR {
        return Err(ImageError::Empty(size));
    }
    lock(&file, wanted.readonly, if wanted.lock_all { 0 } else { size })?;
    match wanted.kind {
        ImageKind::Raw => {}
        ImageKind::Qcow2 => check_qcow2(&file, wanted.direct)?,
        ImageKind::Unknown => refuse_other_formats(&file)?,
    }
    if wanted.direct {
        let direct = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT));
        direct.map_err(|errno| ImageError::Direct(errno.into()))?;
    }
    Ok(file)
}

/// Locks the first `length` bytes, or all there will ever be with 0: exclusively to write, shared to read.
pub fn lock(file: &File, readonly: bool, length: u64) -> Result<(), ImageError> {
    let kind = if readonly { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: all zeros is a lock description; pid must be 0 for a lock of the open file description.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_len = libc::off_t::try_from(length).unwrap_or(0);
    // SAFETY: the call reads the description and keeps no pointer to it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(ImageError::Locked { readonly }),
        _ => Err(ImageError::Lock(error)),
    }
}

/// Refuses what somebody else would take for another format: a guest that could write such a header into an image
/// that is looked at would decide what the host opens next.
fn refuse_other_formats(file: &File) -> Result<(), ImageError> {
    const MAGICS: [(&[u8], &str); 5] = [
        (b"QFI\xfb", "qcow2"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
    ];
    let mut start = [0; SECTOR as usize];
    file.read_exact_at(&mut start, 0).map_err(ImageError::Read)?;
    match MAGICS.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, name)) => Err(ImageError::Format(name)),
        None => Ok(()),
    }
}

/// Whether an image is one that its process can open: all of it in this one file.
fn check_qcow2(file: &File, direct: bool) -> Result<(), ImageError> {
    // magic, version, offset of the backing file's name … incompatible features from byte 72 on
    let mut header = [0; 80];
    file.read_exact_at(&mut header, 0).map_err(ImageError::Read)?;
    let number =
        |at: usize| header[at..at + 8].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    const EXTERNAL_DATA: u64 = 1 << 2;
    match () {
        () if !header.starts_with(b"QFI\xfb") => Err(ImageError::NotQcow2),
        () if number(8) != 0 => Err(ImageError::NotWhole),
        () if header[7] >= 3 && number(72) & EXTERNAL_DATA != 0 => Err(ImageError::NotWhole),
        () if direct => Err(ImageError::NotDirect),
        () => Ok(()),
    }
}

/// What direct I/O on `file` demands; nothing if it was not opened for it.
pub fn alignment(file: &File) -> io::Result<Option<Alignment>> {
    /// Where the kernel does not tell: every disk and file system of today can do with it.
    const SAFE: u32 = 4096;
    if !fcntl_getfl(file)?.contains(OFlags::DIRECT) {
        return Ok(None);
    }
    let told = statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let known = (told.stx_dio_mem_align != 0 && told.stx_dio_offset_align != 0)
        .then(|| Alignment::new(told.stx_dio_mem_align, told.stx_dio_offset_align))
        .flatten();
    Ok(known.or_else(|| Alignment::new(SAFE, SAFE)))
}

/// The serial number of a disk that was given none: Cloud Hypervisor's, made of what the file system calls the image.
pub fn default_serial(file: &File) -> io::Result<Serial> {
    let stat = file.metadata()?;
    Ok(Serial::new(&format!("{}{}{}", stat.dev(), stat.rdev(), stat.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { readonly: false, direct: false, kind: ImageKind::Raw, lock_all: false };
    const READONLY: Wanted = Wanted { readonly: true, ..WANTED };

    /// An image in a folder of its own.
    struct Image(std::path::PathBuf);

    impl Image {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("granule-image-{}-{name}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn one_writer_or_many_readers() {
        for lock_all in [false, true] {
            let image = Image::new("locks", &[0; 4096]);
            let wanted = Wanted { lock_all, ..WANTED };
            let writer = open(&image.0, wanted).unwrap();
            assert!(matches!(open(&image.0, wanted), Err(ImageError::Locked { readonly: false })));
            assert!(matches!(open(&image.0, READONLY), Err(ImageError::Locked { readonly: true })));
            let duplicate = writer.try_clone().unwrap();
            drop(writer);
            open(&image.0, READONLY).unwrap_err();
            drop(duplicate);
            let _readers = [open(&image.0, READONLY).unwrap(), open(&image.0, READONLY).unwrap()];
            assert!(matches!(open(&image.0, wanted), Err(ImageError::Locked { .. })));
        }
    }

    #[test]
    fn an_image_that_looks_like_another_format_is_refused_unless_it_is_said_to_be_raw() {
        let mut content = vec![0; 4096];
        content[..4].copy_from_slice(b"QFI\xfb");
        let image = Image::new("format", &content);
        let unknown = Wanted { kind: ImageKind::Unknown, ..WANTED };
        let error = open(&image.0, unknown).unwrap_err();
        assert!(matches!(error, ImageError::Format("qcow2")), "{error}");
        assert_eq!(error.key(), "image_type");
        open(&image.0, WANTED).unwrap();
        let qcow2 = Wanted { kind: ImageKind::Qcow2, ..WANTED };
        open(&image.0, qcow2).unwrap();
        let direct = Wanted { direct: true, ..qcow2 };
        assert!(matches!(open(&image.0, direct), Err(ImageError::NotDirect)));
        content[15] = 104;
        let overlay = Image::new("overlay", &content);
        assert!(matches!(open(&overlay.0, qcow2), Err(ImageError::NotWhole)));
        let plain = Image::new("plain", &[1; 4096]);
        open(&plain.0, unknown).unwrap();
        assert!(matches!(open(&plain.0, qcow2), Err(ImageError::NotQcow2)));
    }

    #[test]
    fn what_is_missing_empty_or_no_image_is_refused() {
        let missing = open(Path::new("/no/such/image"), WANTED).unwrap_err();
        assert!(matches!(missing, ImageError::Open(_)));
        let empty = Image::new("empty", &[]);
        assert!(matches!(open(&empty.0, WANTED), Err(ImageError::Empty(0))));
        assert!(matches!(open(Path::new("/dev/null"), WANTED), Err(ImageError::Kind)));
        assert!(matches!(open(Path::new("/"), READONLY), Err(ImageError::Kind)));
    }

    #[test]
    fn without_direct_access_there_is_no_alignment() {
        let image = Image::new("alignment", &[0; 4096]);
        assert_eq!(alignment(&open(&image.0, WANTED).unwrap()).unwrap(), None);
    }
}
