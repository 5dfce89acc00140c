//! `granule device blk`.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::blk::{self, Format, Image, Serial, Settings};
use granule_devices::rate::{Group, LimiterSettings};
use granule_jail::DeviceKind;

use super::rate::Bucket;
use super::{Common, DeviceError, take};
use crate::image::{self, ImageKind, Wanted};

/// What a disk is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// The image or block device
    #[arg(long, value_name = "FILE", conflicts_with = "image_fd", required_unless_present = "image_fd")]
    image: Option<PathBuf>,
    /// The image is open, and locked, at this descriptor
    #[arg(long, value_name = "N", hide = true)]
    image_fd: Option<RawFd>,
    /// Format of the image: raw, qcow2, or unknown (raw, and the first sector cannot be written)
    #[arg(long, value_name = "FORMAT", default_value = "raw")]
    image_type: ImageKind,
    /// Let the guest only read
    #[arg(long)]
    readonly: bool,
    /// Bypass the page cache
    #[arg(long)]
    direct: bool,
    /// Keep blocks that the guest discards
    #[arg(long)]
    no_sparse: bool,
    /// Lock the whole file, not only the bytes that it has
    #[arg(long)]
    lock_all: bool,
    /// Number of queues
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Descriptors of each queue, a power of two
    #[arg(long, value_name = "N", default_value = "128", value_parser = queue_size)]
    queue_size: u16,
    /// Serial number, at most 20 bytes; made of the image's inode if not given
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// Bytes, one-time burst and milliseconds of a refill
    #[arg(long, value_name = "SIZE,BURST,MS")]
    bandwidth: Option<Bucket>,
    /// Operations, one-time burst and milliseconds of a refill
    #[arg(long, value_name = "SIZE,BURST,MS")]
    operations: Option<Bucket>,
    /// These limits are shared with other disks, through the memory at this descriptor
    #[arg(long, value_name = "N", hide = true)]
    rate_group_fd: Option<RawFd>,
}

fn queue_size(text: &str) -> Result<u16, &'static str> {
    let size = text.parse().ok().filter(|size: &u16| size.is_power_of_two() && *size >= 4);
    size.ok_or("not a power of two between 4 and 32768")
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let file = open(&args)?;
    let group = args.rate_group_fd.map(|number| take(number).map(File::from)).transpose()?;
    let group = group.map(Group::open).transpose().map_err(DeviceError::Prepare)?;
    let failed = |source| DeviceError::Inspect { flag: "--image", source };
    let serial = match &args.serial {
        Some(text) => Serial::new(text),
        None => image::default_serial(&file).map_err(failed)?,
    };
    let settings = Settings {
        readonly: args.readonly,
        format: if args.image_type == ImageKind::Qcow2 { Format::Qcow2 } else { Format::Raw },
        guard_first_sector: args.image_type == ImageKind::Unknown,
        direct: image::alignment(&file).map_err(failed)?,
        sparse: !args.no_sparse,
        queue_sizes: vec![args.queue_size; args.queues.into()],
        serial,
        limits: LimiterSettings {
            bandwidth: args.bandwidth.map(|bucket| bucket.0),
            operations: args.operations.map(|bucket| bucket.0),
        },
    };
    let image = Image::new(file, &settings).map_err(failed)?;
    args.common.serve(DeviceKind::Blk, |entry| blk::run(entry, image, settings, group))
}

fn open(args: &Args) -> Result<File, DeviceError> {
    if let Some(number) = args.image_fd {
        return Ok(File::from(take(number)?));
    }
    let path = args.image.clone().unwrap_or_default();
    let wanted = Wanted {
        readonly: args.readonly,
        direct: args.direct,
        kind: args.image_type,
        lock_all: args.lock_all,
    };
    image::open(&path, wanted).map_err(|source| DeviceError::Image { path, source })
}
