//! `granule device pmem`.

use std::fs::{File, OpenOptions};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::pmem::{self, CacheFile, Held, Medium, WriteBack};
use granule_jail::DeviceKind;

use super::{Common, DeviceError, take};

/// What persistent memory is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// The image, which the monitor has mapped
    #[arg(long, value_name = "PATH", conflicts_with = "image_fd", required_unless_present = "image_fd")]
    image: Option<PathBuf>,
    /// The image, as this descriptor
    #[arg(long, value_name = "N", hide = true)]
    image_fd: Option<RawFd>,
    /// Bytes of the image that the guest sees
    #[arg(long, value_name = "BYTES")]
    size: u64,
    /// The guest cannot write: a flush has nothing to do
    #[arg(long)]
    readonly: bool,
    /// The guest's memory is this file, to be filled with the image
    #[arg(long, value_name = "N", hide = true)]
    memory_fd: Option<RawFd>,
    /// Bring the image up to date with that file at every flush
    #[arg(long, hide = true, requires = "memory_fd")]
    write_back: bool,
    /// That file comes out of a snapshot: the image may differ from it anywhere
    #[arg(long, hide = true, requires = "write_back")]
    from_snapshot: bool,
    /// The guest's memory is this file in the cache
    #[arg(long, value_name = "N", hide = true, conflicts_with = "memory_fd")]
    cache_fd: Option<RawFd>,
    /// The same file, to be filled
    #[arg(long, value_name = "N", hide = true, requires = "cache_fd")]
    cache_writer_fd: Option<RawFd>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    // What is held keeps the image in the cache for as long as this process lives.
    let (medium, held) = medium(&args).inspect_err(|error| args.common.tell(error))?;
    let size = args.size;
    let served = args.common.serve(DeviceKind::Pmem, |entry| pmem::run(entry, medium, size));
    drop(held);
    served
}

fn medium(args: &Args) -> Result<(Medium, Option<Held>), DeviceError> {
    let image = match (args.image_fd, &args.image) {
        (Some(number), _) => File::from(take(number)?),
        (None, path) => {
            let path = path.clone().unwrap_or_default();
            let opened = OpenOptions::new().read(true).write(!args.readonly).open(&path);
            opened.map_err(|source| DeviceError::Open { flag: "--image", path, source })?
        }
    };
    let size = args.size;
    let file = |number: RawFd| take(number).map(File::from);
    Ok(match (args.cache_fd, args.memory_fd) {
        (Some(reader), _) => {
            let writer = args.cache_writer_fd.map(file).transpose()?;
            let cached = CacheFile { reader: file(reader)?, writer };
            (Medium::None, Some(cached.hold(&image, size).map_err(DeviceError::Load)?))
        }
        (None, Some(memory)) => {
            let memory = file(memory)?;
            pmem::load(&image, &memory, size).map_err(DeviceError::Load)?;
            match args.write_back {
                true => (Medium::Copied(WriteBack::new(image, memory, size, args.from_snapshot)), None),
                false => (Medium::None, None),
            }
        }
        (None, None) if args.readonly => (Medium::None, None),
        (None, None) => (Medium::Mapped(image), None),
    })
}
