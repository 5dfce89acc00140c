//! Buckets that several processes take from: the disks of one group.
//!
//! ```text
//!    0  bandwidth:  full at      8  bandwidth:  burst taken
//!   16  operations: full at     24  operations: burst taken           (64 bits each, in memory that all of them map)
//!
//!   level = size − (full at − now) × size / refill_time
//! ```
//! A bucket is one word: the time, in nanoseconds of CLOCK_MONOTONIC, at which it will be full. To take is to put that off,
//! by one compare-and-exchange, so nobody holds a lock when it dies; zeros are full buckets. The memory has no more than
//! that: sizes and times are each process' own arguments. What stands there is believed as far as honest processes can
//! have come, no further, so a member of the group can use up what all of them have but not stop the others for good.
//!
//! An operation goes as soon as there is one token, and leaves a debt; if it waited for all that it needs, a member with large
//! requests would never get past one with small ones.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::{BucketSettings, LimiterSettings};

/// Bytes of the memory: one of the smallest pages.
const BYTES: usize = 4096;
const BANDWIDTH: usize = 0;
const OPERATIONS: usize = 16;
const BURST: usize = 8;
/// Attempts to change a word that others change meanwhile.
const ATTEMPTS: usize = 64;
/// When to come again after that many.
const BUSY: u64 = 1_000_000;
/// No bucket takes longer to fill: 36 years, so that no sum of times overflows.
const LONGEST_REFILL: u64 = 1 << 60;
/// No wait is longer.
const LONGEST_WAIT: u64 = 24 * 60 * 60 * 1_000_000_000;

/// Memory for the buckets of one group, all full.
///
/// # Errors
/// If the kernel has none.
pub fn group_memory() -> io::Result<OwnedFd> {
    let memory = memfd_create("granule-rate", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, BYTES as u64)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

/// The memory of a group, mapped.
#[derive(Clone, Debug)]
pub struct Group {
    memory: Arc<MmapRegion>,
    /// One moment on both clocks: the rest of the device counts time from where only it knows.
    origin: (Instant, u64),
}

impl Group {
    /// Maps what [`group_memory`] has made. To be called before the jail, which has no rule for it.
    ///
    /// # Errors
    /// If it is too short, or cannot be mapped.
    pub fn open(file: File) -> io::Result<Self> {
        // Beyond the end of its file a mapping is a SIGBUS.
        if fstat(&file)?.st_size < BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not the memory of a group"));
        }
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), BYTES).map_err(io::Error::other)?;
        Ok(Self { memory: Arc::new(memory), origin: origin() })
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let (instant, time) = self.origin;
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match now.checked_duration_since(instant) {
            Some(since) => time.saturating_add(nanoseconds(since)),
            None => time.saturating_sub(nanoseconds(instant - now)),
        }
    }
}

/// One moment by both clocks.
fn origin() -> (Instant, u64) {
    let read = || {
        let before = Instant::now();
        let time = clock_gettime(ClockId::Monotonic);
        // The clock begins with the host.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
        (before.elapsed(), (before, seconds.saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))))
    };
    // A thread may be held up between two clocks: of a few readings the quickest.
    let readings = [read(), read(), read(), read()];
    readings.into_iter().min_by_key(|(took, _)| *took).map_or_else(|| read().1, |(_, origin)| origin)
}

/// One process' way to the buckets of its group.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    group: Group,
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Shared {
    /// The limits that `settings` say; `largest` is the most bytes of one operation.
    pub fn new(settings: LimiterSettings, group: Group, largest: u64) -> Self {
        let bucket =
            |one: Option<BucketSettings>, at, largest| one.and_then(|one| Bucket::new(one, at, largest));
        Self {
            bandwidth: bucket(settings.bandwidth, BANDWIDTH, largest),
            operations: bucket(settings.operations, OPERATIONS, 1),
            group,
        }
    }

    /// As [`super::Limiter::take`].
    pub fn take(&self, bytes: u64, now: Instant) -> Result<(), Instant> {
        let clock = self.group.nanoseconds(now);
        let words = self.group.memory.as_volatile_slice();
        let when = |at: u64| now + Duration::from_nanos(at.saturating_sub(clock).clamp(1, LONGEST_WAIT));
        let paid = match &self.bandwidth {
            Some(bucket) => Some((bucket, bucket.take(&words, bytes, clock).map_err(when)?)),
            None => None,
        };
        let Some(operations) = &self.operations else { return Ok(()) };
        operations.take(&words, 1, clock).map(drop).map_err(|at| {
            if let Some((bucket, payment)) = paid {
                bucket.give_back(&words, payment);
            }
            when(at)
        })
    }
}

/// What was taken, to be given back.
#[derive(Clone, Copy)]
struct Payment {
    time: u64,
    burst: u64,
}

#[derive(Clone, Debug)]
struct Bucket {
    at: usize,
    size: u64,
    refill: u64,
    burst: u64,
    largest: u64,
}

impl Bucket {
    fn new(settings: BucketSettings, at: usize, largest: u64) -> Option<Self> {
        let BucketSettings { size, one_time_burst: burst, refill_time } = settings;
        let refill = u64::try_from(refill_time.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_REFILL);
        (size > 0 && refill > 0).then_some(Self { at, size, refill, burst, largest })
    }

    /// Pays, or says when to come again.
    fn take(&self, words: &VolatileSlice<'_>, tokens: u64, now: u64) -> Result<Payment, u64> {
        let tokens = tokens.min(self.largest);
        let burst = self.take_burst(word(words, self.at + BURST), tokens);
        let time = self.time(tokens - burst);
        if time == 0 {
            return Ok(Payment { time, burst });
        }
        let refused = |at| {
            self.give_back(words, Payment { time: 0, burst });
            Err(at)
        };
        let word = word(words, self.at);
        let mut told = word.load(Ordering::Acquire);
        for _ in 0..ATTEMPTS {
            // Honest members leave the debt of one operation, on top of an empty bucket.
            let most = now.saturating_add(self.refill).saturating_add(self.time(self.largest));
            if told > most {
                // Written down, so that it comes nearer as time goes by.
                told = word
                    .compare_exchange(told, most, Ordering::AcqRel, Ordering::Acquire)
                    .map_or_else(|other| other, |_| most);
                continue;
            }
            let full_at = told.max(now);
            let one_token_at = full_at.saturating_add(self.time(1)).saturating_sub(self.refill);
            if one_token_at > now {
                return refused(one_token_at);
            }
            let then = full_at.saturating_add(time);
            match word.compare_exchange(told, then, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(Payment { time, burst }),
                Err(other) => told = other,
            }
        }
        refused(now.saturating_add(BUSY))
    }

    /// Takes as much of the burst as there is; with too many at once, nothing.
    fn take_burst(&self, word: &AtomicU64, tokens: u64) -> u64 {
        let mut taken = word.load(Ordering::Acquire);
        for _ in 0..ATTEMPTS {
            let part = self.burst.saturating_sub(taken).min(tokens);
            if part == 0 {
                return 0;
            }
            // No more than the whole burst.
            match word.compare_exchange(taken, taken + part, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return part,
                Err(other) => taken = other,
            }
        }
        0
    }

    fn give_back(&self, words: &VolatileSlice<'_>, Payment { time, burst }: Payment) {
        for (at, part) in [(self.at, time), (self.at + BURST, burst)] {
            let word = word(words, at);
            let mut told = word.load(Ordering::Acquire);
            for _ in 0..ATTEMPTS {
                let less = told.saturating_sub(part);
                match word.compare_exchange(told, less, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(other) => told = other,
                }
            }
        }
    }

    /// Nanoseconds in which so many tokens come, rounded up.
    fn time(&self, tokens: u64) -> u64 {
        let time = (u128::from(tokens) * u128::from(self.refill)).div_ceil(u128::from(self.size));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

fn word<'a>(words: &'a VolatileSlice<'_>, at: usize) -> &'a AtomicU64 {
    words.get_atomic_ref(at).expect("the mapping is a page, and the offsets are multiples of 8 in it")
}

#[cfg(test)]
mod tests;
