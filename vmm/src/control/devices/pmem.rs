//! `pmem`: images that the guest maps.
//!
//! | | `machine` and devices map | the process has |
//! |---|---|---|
//! | without tags | the image | the image |
//! | with tags, `readonly` | the host's cache of the image | the cache, and the image to load it |
//! | with tags, or `discard_writes` | a fresh memfd | that memfd, and the image to load it and to write back to |
//!
//! A snapshot holds what is in that memfd, because nobody else has it; the image is then not loaded. Of an image that is only
//! read it keeps when it was modified last, and of one that the guest writes to itself nothing: as of a disk's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use granule_api::config::{Pmem, VmConfig};
use granule_arch::layout::PMEM_GRANULARITY;
use granule_devices::pmem::mark_loaded;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::ids::taken;
use super::{Argument, For, Ids, Planned, Recipe, Region, texts};
use crate::control::files::{self, FileError};
use crate::control::image_cache;
use crate::image;
use crate::wire::{Contents, DeviceKind};

/// The request queue's descriptors.
const QUEUE_SIZE: u16 = 64;

pub(super) fn plan(
    config: &mut VmConfig,
    checked: &[Pmem],
    ids: &mut Ids,
    guest: For,
) -> Result<Vec<Planned>, FileError> {
    let mut planned = Vec::with_capacity(checked.len());
    for (index, pmem) in checked.iter().enumerate() {
        let names = taken(config);
        let id = config.pmem[index].id.get_or_insert_with(|| ids.give("_pmem", &names)).clone();
        let (region, arguments) = Source::open(index, pmem)?.share(guest)?;
        planned.push(Planned {
            recipe: Recipe { id, kind: DeviceKind::Pmem, arguments },
            place: pmem.place,
            queue_sizes: vec![QUEUE_SIZE],
            memory: Some(region),
        });
    }
    Ok(planned)
}

/// An opened image of a size that can be had.
struct Source<'a> {
    index: usize,
    wanted: &'a Pmem,
    image: File,
    size: u64,
}

/// What is mapped, and what the process is started with.
type Shared = (Region, Vec<Argument>);

impl<'a> Source<'a> {
    fn open(index: usize, wanted: &'a Pmem) -> Result<Self, FileError> {
        let writable = !wanted.read_only && !wanted.discard_writes;
        let image = files::open_image(format!("pmem[{index}].file"), &wanted.file, writable)?;
        let mut source = Self { index, wanted, image, size: 0 };
        let length = rustix::fs::seek(&source.image, rustix::fs::SeekFrom::End(0));
        let length = length.map_err(|errno| source.failed("its size cannot be found", errno.into()))?;
        source.size = source.check_size(length)?;
        // As a disk's: one that writes, or any number that only read.
        image::lock(&source.image, !writable, 0).map_err(|error| FileError::Unusable {
            field: format!("pmem[{index}].file"),
            path: wanted.file.clone(),
            source: error.into(),
        })?;
        Ok(source)
    }

    fn check_size(&self, length: u64) -> Result<u64, FileError> {
        let size = self.wanted.size.unwrap_or(length);
        let reason = if length == 0 {
            "the file is empty".to_owned()
        } else if size > length {
            format!("{size} bytes are more than the file has ({length})")
        } else if size == 0 || !size.is_multiple_of(PMEM_GRANULARITY) {
            format!(
                "{size} bytes are not a multiple of 2 MiB, and a guest would not use the rest; enlarge the file \
                 (truncate -s %2M) or give a smaller size"
            )
        } else {
            return Ok(size);
        };
        let key = if self.wanted.size.is_some() { "size" } else { "file" };
        Err(self.refusal(key, reason, None))
    }

    fn share(self, guest: For) -> Result<Shared, FileError> {
        if guest.mte && self.wanted.read_only {
            self.share_cached()
        } else if guest.mte || self.wanted.discard_writes {
            self.share_copy(guest.restored)
        } else {
            self.share_file()
        }
    }

    fn share_file(self) -> Result<Shared, FileError> {
        let file = self.image.try_clone().map_err(|error| self.failed("it cannot be duplicated", error))?;
        let read_only = self.wanted.read_only;
        let flag = read_only.then(|| Argument::Text("--readonly".into()));
        let contents = if read_only { self.fixed()? } else { Contents::File };
        let region = Region { file: file.into(), size: self.size, read_only, contents };
        Ok((region, self.arguments(flag)))
    }

    /// What the image is, if nobody writes to it.
    fn fixed(&self) -> Result<Contents, FileError> {
        let found = self.image.metadata();
        let found = found.map_err(|error| self.failed("its age cannot be found", error))?;
        // A block device's file has an age, but that of its name.
        Ok(if found.is_file() { Contents::FileOf(found.mtime(), found.mtime_nsec()) } else { Contents::File })
    }

    fn share_copy(self, restored: bool) -> Result<Shared, FileError> {
        let failed = |error: io::Error| self.failed("there is no memory for it", error);
        let memory = fresh_memory(self.size).map_err(failed)?;
        let file = memory.try_clone().map_err(failed)?;
        let mut flags = Vec::new();
        if !self.wanted.discard_writes {
            flags.push("--write-back");
        }
        if restored {
            // The mover fills it.
            let memory = File::from(memory.try_clone().map_err(failed)?);
            mark_loaded(&memory).map_err(failed)?;
            flags.extend((!self.wanted.discard_writes).then_some("--from-snapshot"));
        }
        let region = Region { file, size: self.size, read_only: false, contents: Contents::Own };
        Ok((region, self.arguments([Argument::Fd("--memory-fd", memory)].into_iter().chain(texts(&flags)))))
    }

    fn share_cached(self) -> Result<Shared, FileError> {
        let failed = |error: io::Error| self.failed("it cannot be shared through memory", error);
        let cached = image_cache::open(&self.image, self.size).map_err(failed)?;
        let file = cached.reader.try_clone().map_err(failed)?;
        let contents = self.fixed()?;
        let region = Region { file: file.into(), size: self.size, read_only: true, contents };
        let writer = cached.writer.map(|writer| Argument::file("--cache-writer-fd", writer));
        let reader = Argument::file("--cache-fd", cached.reader);
        Ok((region, self.arguments([reader].into_iter().chain(writer))))
    }

    fn arguments(self, more: impl IntoIterator<Item = Argument>) -> Vec<Argument> {
        let size = [Argument::Text("--size".into()), Argument::Text(self.size.to_string())];
        more.into_iter().chain(size).chain([Argument::file("--image-fd", self.image)]).collect()
    }

    fn failed(&self, reason: &str, source: io::Error) -> FileError {
        self.refusal("file", reason.to_owned(), Some(source))
    }

    fn refusal(&self, key: &str, reason: String, source: Option<io::Error>) -> FileError {
        let field = format!("pmem[{}].{key}", self.index);
        FileError::Image { field, path: self.wanted.file.clone(), reason, source }
    }
}

/// Memory of nobody yet, which cannot change its size.
fn fresh_memory(size: u64) -> io::Result<OwnedFd> {
    let memory = memfd_create("granule-pmem", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, size)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn image(name: &str, length: u64) -> PathBuf {
        let path = std::env::temp_dir().join(format!("granule-pmem-{}-{name}", std::process::id()));
        File::create(&path).unwrap().set_len(length).unwrap();
        path
    }

    fn refusal(length: u64, size: Option<u64>) -> String {
        let path = image(&format!("{length}-{}", size.unwrap_or(0)), length);
        let pmem = Pmem { file: path.clone(), size, ..Pmem::default() };
        let error = Source::open(3, &pmem).map(drop).unwrap_err();
        std::fs::remove_file(path).unwrap();
        error.to_string()
    }

    #[test]
    fn sizes_that_cannot_be_had_are_refused_with_the_fields_name() {
        let empty = refusal(0, None);
        assert!(empty.starts_with("pmem[3].file: ") && empty.ends_with("the file is empty"), "{empty}");
        let odd = refusal((2 << 20) + 512, None);
        assert!(odd.starts_with("pmem[3].file: ") && odd.contains("not a multiple of 2 MiB"), "{odd}");
        assert!(refusal(4 << 20, Some(3 << 20)).starts_with("pmem[3].size: "));
        assert!(refusal(2 << 20, Some(4 << 20)).contains("more than the file has (2097152)"));
    }

    #[test]
    fn what_is_shared_depends_on_tags_and_on_who_may_write() {
        let path = image("shared", 2 << 20);
        let case = |read_only, discard_writes, mte, restored| {
            let pmem = Pmem { file: path.clone(), read_only, discard_writes, ..Pmem::default() };
            let (region, arguments) = Source::open(0, &pmem).unwrap().share(For { mte, restored }).unwrap();
            let flags = arguments.iter().filter_map(|argument| match argument {
                Argument::Fd(flag, _) => Some((*flag).to_owned()),
                Argument::Text(text) => {
                    Some(text.clone()).filter(|text| text.ends_with("-back") || text.ends_with("-snapshot"))
                }
                Argument::Kept(_) => None,
            });
            let contents = match region.contents {
                Contents::Own => "own",
                Contents::File => "file",
                Contents::FileOf(..) => "fixed",
            };
            (region.read_only, contents, flags.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(case(false, false, false, false), (false, "file", "--image-fd".into()));
        assert_eq!(case(true, false, false, true), (true, "fixed", "--image-fd".into()));
        for mte in [false, true] {
            assert_eq!(case(false, true, mte, mte), (false, "own", "--memory-fd --image-fd".into()));
        }
        let tagged = |restored| case(false, false, true, restored);
        assert_eq!(tagged(false), (false, "own", "--memory-fd --write-back --image-fd".into()));
        assert_eq!(
            tagged(true),
            (false, "own", "--memory-fd --write-back --from-snapshot --image-fd".into())
        );
        assert_eq!(
            case(true, false, true, false),
            (true, "fixed", "--cache-fd --cache-writer-fd --image-fd".into())
        );
        image_cache::sweep();
        std::fs::remove_file(path).unwrap();
    }
}
