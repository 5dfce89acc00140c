//! Writes initramfs archives in the kernel's `newc` cpio format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::elf;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_666;

/// An archive under construction; parents must be added before what is in them.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// What every guest has, with the program `init` as `/init`: the folders that it mounts on, `/dev/console` and `/dev/null`,
    /// without which it has no standard output, or ends at once where there is no console.
    pub fn for_guest(init: &[u8]) -> Self {
        let mut archive = Self::default();
        for folder in ["bin", "dev", "modules", "proc", "root", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
        archive.entry("dev/null", CHARACTER_DEVICE, (1, 3), &[]);
        archive.file("init", 0o755, &elf::loaded_part(init.to_vec()));
        archive
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    /// Adds a file with the permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode & 0o7777, (0, 0), content);
    }

    /// Adds a program of the host, without its debugging sections.
    pub fn program(&mut self, path: &str, from: &Path) -> io::Result<()> {
        let content =
            fs::read(from).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))?;
        self.file(path, 0o755, &elf::loaded_part(content));
        Ok(())
    }

    /// Adds a folder and the files directly in it, in the order of their names.
    pub fn copy_folder(&mut self, path: &str, from: &Path) -> io::Result<()> {
        self.folder(path);
        let mut files: Vec<_> = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files.iter().filter(|f| f.path().is_file()) {
            let mode = file.path().metadata()?.permissions().mode();
            let name = format!("{path}/{}", file.file_name().to_string_lossy());
            self.file(&name, mode, &elf::loaded_part(fs::read(file.path())?));
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == FOLDER & 0o170_000 { 2 } else { 1 };
        let name_size = path.len() as u32 + 1;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields =
            [self.entries, mode, 0, 0, links, 0, content.len() as u32, 0, 0, major, minor, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Names and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Writes a program that this host can run.
///
/// # Errors
/// If the file cannot be written.
pub fn write_program(path: &str, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_header_the_kernel_reads() {
        let mut archive = Initramfs::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let head = "070701000000010000\
                    81ed00000000000000000000000100000000000000050000000000000000000000000000000000000005\
                    00000000init\0\0hello\0\0\x00070701";
        assert_eq!(String::from_utf8_lossy(&bytes[..head.len()]), head);
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"), "the trailer is padded to four bytes");
    }

    #[test]
    fn a_device_carries_its_number_and_no_content() {
        let mut archive = Initramfs::default();
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
        let head = String::from_utf8_lossy(&archive.bytes[..110]).into_owned();
        assert_eq!(&head[14..22], "000021b6");
        assert_eq!(&head[78..94], "0000000500000001");
    }
}
