//! How often vCPUs came back from the guest, by reason. A thread counts for itself; whoever asks adds up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use granule_arch::kvm::Exit;

/// The reasons, by their names in `GET /metrics`.
const REASONS: [&str; 6] = ["mmio_read", "mmio_write", "undecodable", "read_only", "system", "interrupted"];

/// One thread's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Exits([AtomicU64; REASONS.len()]);

impl Exits {
    /// Takes note of one.
    pub fn count(&self, exit: &Exit<'_>) {
        let reason = match exit {
            Exit::MmioRead { .. } => 0,
            Exit::MmioWrite { .. } => 1,
            Exit::Undecodable { .. } => 2,
            Exit::ReadOnly { .. } => 3,
            Exit::System(_) => 4,
            Exit::Interrupted => 5,
        };
        self.0[reason].fetch_add(1, Ordering::Relaxed);
    }

    /// All threads' together.
    pub fn sum<'a>(all: impl Iterator<Item = &'a Exits>) -> BTreeMap<String, u64> {
        let mut sums = REASONS.map(|reason| (reason.to_owned(), 0_u64));
        for exits in all {
            for ((_, sum), count) in sums.iter_mut().zip(&exits.0) {
                *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        sums.into()
    }
}
