//! What `control` knows of the host: what `machine` found through `/dev/kvm`, or why it found nothing.

use granule_arch::host::HostReport;

use crate::wire::Failure;

/// See the module's description.
#[derive(Debug, Clone)]
pub enum HostView {
    /// The host was looked at.
    Known(Box<HostReport>),
    /// It could not be, or not yet.
    Unknown {
        /// Why, outermost cause first.
        causes: Vec<String>,
    },
}

impl HostView {
    /// Before the first look.
    pub fn unknown() -> Self {
        Self::Unknown { causes: vec!["the host has not been looked at yet".into()] }
    }

    /// After it.
    pub fn known(report: HostReport) -> Self {
        Self::Known(Box::new(report))
    }

    /// The host cannot run guests.
    pub fn failed(failure: &Failure) -> Self {
        Self::Unknown { causes: failure.causes.clone() }
    }

    /// The report.
    pub fn report(&self) -> Option<&HostReport> {
        match self {
            Self::Known(report) => Some(report),
            Self::Unknown { .. } => None,
        }
    }

    /// Why guests cannot have shared tagged memory here; `None` when they can.
    pub fn no_shared_tags(&self) -> Option<String> {
        match self {
            Self::Known(report) => report.mte.support.refusal().map(str::to_owned),
            Self::Unknown { causes } => Some(causes.join(": ")),
        }
    }
}
