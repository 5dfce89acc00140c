//! The device itself: requests in the order of their queues, one at a time.
//!
//! Buffers are used in the order in which they were made available, each after its work is done. So whatever moment this
//! process dies at, all requests up to the used index are done, and its successor goes on with the next one; a request
//! that was done but not used is done again, which for all kinds of requests comes to the same.

use std::io;
use std::time::Instant;

use tracing::warn;

use super::counters::Work;
use super::medium::Medium;
use super::request::{Half, Range, Request, scatter};
use super::spec::{
    self, CONFIG_SIZE, Config, MAX_CHAINS, MAX_DISCARD, MAX_DISCARD_RANGES, MAX_REQUEST, MAX_SEGMENTS,
    MAX_ZEROES, MAX_ZEROES_RANGES, SECTOR, Status, UNMAP, kind,
};
use super::state::Settings;
use crate::rate::{Group, Limiter};
use crate::serve::{Chain, Counters, Device, Memory, Progress, Ring, RingFault, Wake, serve_while};
use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// What sets blocks of file systems apart, and disks of this century.
const PHYSICAL_BLOCK: u32 = 4096;

/// A virtio block device.
pub struct BlkDevice {
    medium: Box<dyn Medium>,
    settings: Settings,
    config: [u8; CONFIG_SIZE],
    /// The driver did not take FLUSH: each write is on the disk when it is answered (§5.2.5.1).
    write_through: bool,
    limiter: Limiter,
    /// Queues whose next request must wait until then.
    stalled: Vec<bool>,
    until: Option<Instant>,
    request: Request,
    /// The host's failures are logged once, not as often as a guest tries.
    complained: bool,
    work: Work,
}

impl BlkDevice {
    /// A device over `medium`.
    pub(super) fn new(medium: Box<dyn Medium>, settings: Settings) -> Self {
        let limiter = Limiter::new(settings.limits, Instant::now());
        let stalled = vec![false; settings.queue_sizes.len()];
        let config = configuration(&settings, medium.size()).bytes();
        Self {
            medium,
            settings,
            config,
            write_through: false,
            limiter,
            stalled,
            until: None,
            request: Request::default(),
            complained: false,
            work: Work::default(),
        }
    }

    /// The same, which shares its limits with the disks of `group`.
    pub(super) fn within(mut self, group: Option<Group>) -> Self {
        if let Some(group) = group {
            self.limiter = Limiter::shared(self.settings.limits, group, MAX_REQUEST);
        }
        self
    }

    /// Serves one chain, or says that it must wait.
    fn serve_chain(&mut self, chain: Chain<'_>, memory: &Memory) -> Result<u32, Instant> {
        let mut request = std::mem::take(&mut self.request);
        request.read(chain);
        let served = self.serve_request(&request, memory);
        let answer = served.map(|(status, written)| request.finish(memory, status, written));
        self.request = request;
        answer
    }

    fn serve_request(&mut self, request: &Request, memory: &Memory) -> Result<(Status, u32), Instant> {
        let Some(header) = request.header(memory) else { return Ok((Status::IoError, 0)) };
        let bytes = match header.kind {
            kind::IN => request.writable_bytes(),
            kind::OUT => request.data_bytes(),
            _ => 0,
        };
        self.limiter.take(bytes, Instant::now())?;
        let failed = (Status::IoError, 0);
        Ok(match header.kind {
            kind::IN => self.read(request, header.sector, memory).unwrap_or(failed),
            kind::OUT => self.write(request, header.sector, memory).unwrap_or(failed),
            kind::FLUSH => (self.flush(), 0),
            kind::ID => self.tell_serial(request, memory).unwrap_or(failed),
            kind::DISCARD if self.features() & spec::F_DISCARD != 0 => (self.discard(request, memory), 0),
            kind::WRITE_ZEROES if self.features() & spec::F_WRITE_ZEROES != 0 => {
                (self.write_zeroes(request, memory), 0)
            }
            _ => (Status::Unsupported, 0),
        })
    }

    fn read(&mut self, request: &Request, sector: u64, memory: &Memory) -> Option<(Status, u32)> {
        let length = request.writable_bytes();
        let offset = self.check(sector, length)?;
        let mut slices = request.slices(memory, Half::Writable)?;
        let begun = Instant::now();
        let status = self.told(|medium| medium.read(&mut slices, offset));
        self.work.read.done(length, begun.elapsed());
        // Cannot truncate: a request has no more than MAX_REQUEST bytes.
        Some((status, length as u32))
    }

    fn write(&mut self, request: &Request, sector: u64, memory: &Memory) -> Option<(Status, u32)> {
        if self.settings.readonly || self.settings.guard_first_sector && sector == 0 {
            return None;
        }
        let offset = self.check(sector, request.data_bytes())?;
        let mut slices = request.slices(memory, Half::Readable)?;
        let begun = Instant::now();
        let status = self.told(|medium| medium.write(&mut slices, offset));
        let status = self.through(status);
        self.work.written.done(request.data_bytes(), begun.elapsed());
        Some((status, 0))
    }

    fn flush(&mut self) -> Status {
        self.work.flushes += 1;
        self.told(|medium| medium.flush())
    }

    fn tell_serial(&self, request: &Request, memory: &Memory) -> Option<(Status, u32)> {
        let serial = &self.settings.serial.0;
        if request.writable_bytes() < serial.len() as u64 {
            return None;
        }
        scatter(serial, &request.slices(memory, Half::Writable)?);
        Some((Status::Ok, spec::SERIAL as u32))
    }

    fn discard(&mut self, request: &Request, memory: &Memory) -> Status {
        self.on_ranges(request, memory, MAX_DISCARD_RANGES, MAX_DISCARD, 0, |medium, offset, length, _| {
            medium.discard(offset, length)
        })
    }

    fn write_zeroes(&mut self, request: &Request, memory: &Memory) -> Status {
        let sparse = self.settings.sparse;
        let (ranges, sectors) = (MAX_ZEROES_RANGES, MAX_ZEROES);
        self.on_ranges(request, memory, ranges, sectors, UNMAP, |medium, offset, length, flags| {
            medium.zero(offset, length, sparse && flags & UNMAP != 0)
        })
    }

    /// Checks all ranges of a request (§5.2.6.2), then acts on them.
    fn on_ranges(
        &mut self,
        request: &Request,
        memory: &Memory,
        most_ranges: u32,
        most_sectors: u32,
        known_flags: u32,
        act: impl Fn(&mut dyn Medium, u64, u64, u32) -> io::Result<()>,
    ) -> Status {
        if self.settings.readonly {
            return Status::IoError;
        }
        let Some(ranges) = request.ranges(memory, most_ranges) else { return Status::IoError };
        if ranges.iter().any(|range| range.flags & !known_flags != 0) {
            return Status::Unsupported;
        }
        let check = |Range { sector, sectors, flags }: Range| {
            let length = u64::from(sectors) * SECTOR;
            let offset = self.check(sector, length).filter(|_| sectors <= most_sectors)?;
            Some((offset, length, flags))
        };
        let Some(checked) = ranges.into_iter().map(check).collect::<Option<Vec<_>>>() else {
            return Status::IoError;
        };
        let status = self.told(|medium| {
            let mut ranges = checked.into_iter().filter(|(_, length, _)| *length > 0);
            ranges.try_for_each(|(offset, length, flags)| act(medium, offset, length, flags))
        });
        self.through(status)
    }

    /// The offset of a range that lies on the disk and is made of whole sectors.
    fn check(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        (length.is_multiple_of(SECTOR) && end <= self.medium.size()).then_some(offset)
    }

    /// What a write comes to: with a driver that cannot flush, it is flushed at once.
    fn through(&mut self, status: Status) -> Status {
        if self.write_through && status == Status::Ok { self.flush() } else { status }
    }

    fn told(&mut self, act: impl FnOnce(&mut dyn Medium) -> io::Result<()>) -> Status {
        let Err(error) = act(&mut *self.medium) else { return Status::Ok };
        self.work.errors += 1;
        if error.kind() == io::ErrorKind::Unsupported {
            return Status::Unsupported;
        }
        if !std::mem::replace(&mut self.complained, true) {
            warn!(%error, "the image fails; the guest is told, this log is not told again");
        }
        Status::IoError
    }

    fn resize(&mut self, order: &str) -> Result<(), String> {
        let size = order.strip_prefix("resize ").and_then(|size| size.parse().ok());
        let size: u64 = size.ok_or("a block device knows the order `resize BYTES` only")?;
        let block = self.settings.direct.map_or(SECTOR, |alignment| alignment.offset.into());
        if self.settings.readonly {
            return Err("desired_size: the disk is read only".into());
        }
        if size < self.medium.size() {
            // The guest would lose what it has written, and has no way to say whether it can.
            let now = self.medium.size();
            return Err(format!("desired_size: a disk in use only grows, and this one has {now} bytes"));
        }
        if !size.is_multiple_of(block) {
            return Err(format!("desired_size: not a multiple of {block}, the size of a block"));
        }
        self.medium.resize(size).map_err(|error| format!("desired_size: {error}"))?;
        self.config = configuration(&self.settings, self.medium.size()).bytes();
        Ok(())
    }
}

impl Device for BlkDevice {
    fn features(&self) -> u64 {
        let Settings { readonly, sparse, queue_sizes, .. } = &self.settings;
        let mut features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;
        features |= spec::F_SIZE_MAX | spec::F_SEG_MAX | spec::F_BLK_SIZE | spec::F_TOPOLOGY | spec::F_FLUSH;
        let mut offer = |feature: u64, offered: bool| features |= if offered { feature } else { 0 };
        offer(spec::F_MQ, queue_sizes.len() > 1);
        offer(spec::F_RO, *readonly);
        offer(spec::F_WRITE_ZEROES, !readonly);
        offer(spec::F_DISCARD, !readonly && *sparse);
        features
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.settings.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn accept_features(&mut self, features: u64) {
        self.write_through = features & spec::F_FLUSH == 0;
    }

    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault> {
        let mut wait = None;
        let progress = serve_while(ring, memory, MAX_CHAINS, |chain| {
            self.serve_chain(chain, memory).map_err(|until| wait = Some(until)).ok()
        })?;
        if let Some(until) = wait {
            self.stalled[usize::from(queue)] = true;
            self.until = Some(self.until.map_or(until, |known| known.min(until)));
        }
        Ok(progress)
    }

    fn deadline(&self) -> Option<Instant> {
        self.until
    }

    fn elapsed(&mut self, wake: &mut Wake) {
        self.until = None;
        for (index, stalled) in (0..).zip(&mut self.stalled) {
            if std::mem::take(stalled) {
                wake.queue(index);
            }
        }
    }

    fn counters(&self) -> Counters {
        self.work.counters()
    }

    fn order(
        &mut self,
        order: &[u8],
        _fd: Option<std::os::fd::OwnedFd>,
        _wake: &mut Wake,
    ) -> Result<Vec<u8>, String> {
        self.resize(&String::from_utf8_lossy(order))?;
        Ok(self.medium.size().to_string().into_bytes())
    }
}

fn configuration(settings: &Settings, bytes: u64) -> Config {
    let block = settings.direct.map_or(SECTOR as u32, |alignment| alignment.offset);
    let smallest = settings.queue_sizes.iter().copied().min().unwrap_or(0);
    Config {
        capacity: bytes / SECTOR,
        // A chain is no longer than its queue, and header and status are two of it.
        seg_max: u32::from(smallest.saturating_sub(2)).clamp(1, MAX_SEGMENTS as u32 - 2),
        block,
        physical_block: block.max(PHYSICAL_BLOCK),
        // There are no more than 16.
        queues: settings.queue_sizes.len() as u16,
        discard: settings.sparse && !settings.readonly,
    }
}
