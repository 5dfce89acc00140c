//! vm.create: from what was sent to what can be built, or the field at fault.

use granule_api::config::{self, Limits, MteRequest, VmConfig};
use granule_api::error::{ApiError, ErrorKind};

use granule_arch::layout::{MAX_PCI_SEGMENTS, MAX_VCPUS, RAM_BASE, RAM_GRANULARITY};

use super::devices::{Groups, Ids};
use super::host::HostView;
use super::vm::{Created, MteDecision, PassedFds};

/// vCPUs that the memory map has room for.
const MOST_VCPUS: u32 = MAX_VCPUS as u32;

/// Process-wide settings that a request may leave open.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `--mte`.
    pub mte: MteRequest,
    /// The host's memory in bytes.
    pub host_memory: u64,
}

impl Defaults {
    /// Reads what the host says of itself.
    pub fn new(mte: MteRequest) -> Self {
        Self { mte, host_memory: host_memory() }
    }
}

/// Checks a configuration; keeps nothing of one that is refused.
pub fn create(config: VmConfig, defaults: &Defaults, host: &HostView) -> Result<Created, ApiError> {
    let report = host.report();
    let limits = Limits {
        max_vcpus: report
            .and_then(|report| u32::try_from(report.max_vcpus).ok())
            .map_or(MOST_VCPUS, |most| most.min(MOST_VCPUS)),
        host_memory: defaults.host_memory,
        // Guest memory comes in the largest pages that a guest may have, whatever the host's own are.
        page_size: RAM_GRANULARITY,
        ipa_bits: report.map_or(40, |report| report.ipa_bits),
        ram_start: RAM_BASE.0,
        max_pci_segments: MAX_PCI_SEGMENTS,
        mte_default: defaults.mte,
    };
    let checked = config::check(&config, &limits)?;
    let mte = decide(checked.cpus.mte, host)?;
    Ok(Created {
        config,
        checked,
        mte,
        ids: Ids::default(),
        passed: PassedFds::new(),
        groups: Groups::default(),
    })
}

/// Tags or not. What was asked for and cannot be had is refused with the kernel's reason, not quietly left out.
fn decide(request: MteRequest, host: &HostView) -> Result<MteDecision, ApiError> {
    match (request, host.no_shared_tags()) {
        (MteRequest::Off, _) => Ok(MteDecision::Off { reason: "not asked for".into() }),
        (MteRequest::On | MteRequest::Auto, None) => Ok(MteDecision::On),
        (MteRequest::Auto, Some(reason)) => Ok(MteDecision::Off { reason }),
        (MteRequest::On, Some(reason)) => Err(ApiError::new(
            ErrorKind::BadRequest,
            "cpus.features.mte: this host cannot give a guest tagged memory that is shared with its devices",
        )
        .because(reason)),
    }
}

/// MemTotal, in bytes; no limit where the kernel does not say.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old_kernel() -> HostView {
        HostView::Unknown { causes: vec!["the kernel refuses MAP_SHARED".into()] }
    }

    #[test]
    fn tags_that_are_asked_for_and_cannot_be_had_are_refused_with_the_reason() {
        let error = decide(MteRequest::On, &old_kernel()).unwrap_err();
        assert_eq!(error.status(), 400);
        assert!(error.causes()[1].starts_with("cpus.features.mte: "));
        assert_eq!(error.causes()[2], "the kernel refuses MAP_SHARED");
    }

    #[test]
    fn auto_goes_on_without_tags_and_says_why() {
        let decision = decide(MteRequest::Auto, &old_kernel()).unwrap();
        assert_eq!(decision, MteDecision::Off { reason: "the kernel refuses MAP_SHARED".into() });
    }

    #[test]
    fn the_host_knows_its_memory() {
        assert!(host_memory() > 1 << 20);
    }
}
