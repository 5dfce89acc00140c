//! `granule device net`.

use std::os::fd::RawFd;
use std::process::ExitCode;

use granule_api::config::MacAddr;
use granule_devices::net::{self, Offloads, Settings, Taps};
use granule_devices::rate::LimiterSettings;
use granule_jail::DeviceKind;

use super::rate::Bucket;
use super::{Common, DeviceError, take};
use crate::tap::{self, Wanted};

/// What a network device is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Name of the tap; made if there is none
    #[arg(long, value_name = "NAME", conflicts_with = "tap_fds", required_unless_present = "tap_fds")]
    tap: Option<String>,
    /// Pairs of queues
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=16))]
    pairs: u16,
    /// The tap is open, and set up, at this descriptor; one for each pair
    #[arg(long = "tap-fd", value_name = "N", hide = true)]
    tap_fds: Vec<RawFd>,
    /// What those taps take
    #[arg(long, value_name = "BITS", default_value = "0", hide = true)]
    tap_offloads: u32,
    /// The guest's Ethernet address
    #[arg(long, value_name = "MAC")]
    mac: MacAddr,
    /// Largest packet
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Descriptors of each queue, a power of two
    #[arg(long, value_name = "N", default_value = "256")]
    queue_size: u16,
    /// Leave no checksums to the other side
    #[arg(long)]
    no_checksum: bool,
    /// Leave no TCP segmentation to the other side
    #[arg(long)]
    no_segmentation: bool,
    /// Leave no UDP fragmentation to the other side
    #[arg(long)]
    no_fragmentation: bool,
    /// Bytes, one-time burst and milliseconds of a refill, for each direction
    #[arg(long, value_name = "SIZE,BURST,MS")]
    bandwidth: Option<Bucket>,
    /// Packets, one-time burst and milliseconds of a refill, for each direction
    #[arg(long, value_name = "SIZE,BURST,MS")]
    operations: Option<Bucket>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let (taps, tap_offloads) = if args.tap_fds.is_empty() {
        let wanted =
            Wanted { name: args.tap.as_deref(), queues: args.pairs, mtu: args.mtu, ..Wanted::default() };
        let tap = tap::open(&wanted).map_err(DeviceError::Tap)?;
        (tap.queues, tap.offloads)
    } else {
        let taps: Result<Vec<_>, _> = args.tap_fds.iter().map(|number| take(*number)).collect();
        (taps?, args.tap_offloads)
    };
    let settings = Settings {
        mac: args.mac.0,
        mtu: args.mtu,
        queue_size: args.queue_size,
        offloads: Offloads {
            checksum: !args.no_checksum,
            segmentation: !args.no_segmentation,
            fragmentation: !args.no_fragmentation,
            taps: tap_offloads,
        },
        limits: LimiterSettings {
            bandwidth: args.bandwidth.map(|bucket| bucket.0),
            operations: args.operations.map(|bucket| bucket.0),
        },
    };
    args.common.serve(DeviceKind::Net, |entry| net::run(entry, settings, Taps(taps)))
}
