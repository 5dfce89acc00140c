//! `granule probe`: what this host can do, for a person or as JSON.

use std::process::ExitCode;

use granule_arch::host::{self, FileReport, HostReport};
use serde::Serialize;

use crate::control::transfer::on_demand;
use crate::machine::Host;
use crate::wire::Failure;

/// The answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    /// What KVM offers; absent where it cannot be used.
    kvm: Option<HostReport>,
    /// Why KVM cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    kvm_missing: Option<String>,
    /// Why no guest can be restored on demand here; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_demand_missing: Option<String>,
    /// The rest.
    host: FileReport,
}

/// The answer cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be written as JSON")]
pub struct ProbeError(#[from] serde_json::Error);

/// Prints the report. The exit code says whether guests can run here: 0 yes, 1 no.
pub fn run(json: bool) -> Result<ExitCode, ProbeError> {
    let (kvm, kvm_missing) = match Host::open() {
        Ok(host) => (Some(host.report().clone()), None),
        Err(failure) => (None, Some(failure.causes.join(": "))),
    };
    let on_demand_missing = on_demand::open().err().map(|error| Failure::from(error).causes.join(": "));
    let answer = Answer { kvm, kvm_missing, on_demand_missing, host: host::files() };
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        for (what, found) in table(&answer) {
            println!("{what:<24} {found}");
        }
    }
    Ok(if answer.kvm.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(answer: &Answer) -> Vec<(&'static str, String)> {
    let mut rows = match &answer.kvm {
        None => vec![("KVM", format!("no: {}", answer.kvm_missing.as_deref().unwrap_or("unknown")))],
        Some(report) => kvm_rows(report),
    };
    let FileReport { landlock_abi, transparent_huge_pages, shmem_huge_pages, userfaultfd } = &answer.host;
    let or_none = |setting: &Option<String>| setting.clone().unwrap_or_else(|| "none".into());
    rows.push(("landlock", if *landlock_abi > 0 { format!("version {landlock_abi}") } else { "no".into() }));
    rows.push(("userfaultfd", format!("{userfaultfd:?}")));
    let on_demand = answer.on_demand_missing.as_ref().map_or("yes".into(), |why| format!("no: {why}"));
    rows.push(("restore on demand", on_demand));
    rows.push(("huge pages", or_none(transparent_huge_pages)));
    rows.push(("huge pages, shared", or_none(shmem_huge_pages)));
    rows
}

fn kvm_rows(report: &HostReport) -> Vec<(&'static str, String)> {
    let yes_no = |there: bool| if there { "yes" } else { "no" }.to_owned();
    let tags = match (report.mte.support.refusal(), report.mte.level) {
        (None, Some(level)) => format!("yes, on memory shared with devices; level {level}"),
        (None, None) => "yes, on memory shared with devices".into(),
        (Some(why), _) => format!("no: {why}"),
    };
    let sve = match report.sve_vector_bits[..] {
        [] => "no".into(),
        [only] => format!("yes, {only} bits"),
        [first, .., last] => format!("yes, {first} to {last} bits"),
    };
    vec![
        ("kernel", format!("{}, pages of {} bytes", report.kernel, report.page_size)),
        ("KVM", format!("yes, interface {}", report.kvm_api)),
        ("memory tagging", tags),
        ("guest address bits", report.ipa_bits.to_string()),
        ("vCPUs per guest", report.max_vcpus.to_string()),
        ("GICv3, ITS", format!("{}, {}", yes_no(report.gicv3), yes_no(report.its))),
        ("SVE", sve),
        ("pointer authentication", yes_no(report.pointer_auth)),
        ("PMU", yes_no(report.pmu)),
        ("guest clock offset", yes_no(report.counter_offset)),
    ]
}
