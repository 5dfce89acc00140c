//! The host that the rules are shown on.

use std::fs;

use granule_arch::mte::{MteReport, MteSupport};
use kvm_ioctls::Kvm;
use libtest_mimic::{Failed, Trial};

/// A kernel's version, major and minor.
pub type Release = (u32, u32);

/// Guest memory under tags may be shared since then.
pub const SHARED_TAGS: Release = (6, 2);
/// `KVM_ARM_MTE_COPY_TAGS` to the guest is refused while dirty logging is on, since then.
pub const NO_COPY_WHILE_LOGGING: Release = (6, 12);
/// Huge pages may be tagged since then.
pub const HUGE_TAGS: Release = (6, 13);

/// What is known of it before any rule is shown.
#[derive(Clone)]
pub struct Host {
    pub release: Release,
    /// Why there are no tags here.
    pub no_tags: Option<String>,
    /// What the probe says.
    pub probed: MteReport,
}

impl Host {
    /// Looks at the host.
    ///
    /// # Panics
    /// Where there is no `/dev/kvm`: then nothing can be shown, and that is a failure and no skip.
    pub fn look() -> Self {
        let kvm = kvm();
        let probed = granule_arch::mte::probe(&kvm).expect("the host answers the probe");
        let no_tags = match &probed.support {
            MteSupport::None { why } => Some(why.clone()),
            _ => None,
        };
        Self { release: release(), no_tags, probed }
    }

    /// Whether the kernel is this one or a later one.
    pub fn since(&self, release: Release) -> bool {
        self.release >= release
    }

    /// A rule about tags.
    pub fn rule(&self, name: &str, show: impl FnOnce(&Self) + Send + 'static) -> Trial {
        let host = self.clone();
        Trial::test(name, move || shown(show, &host)).with_ignored_flag(self.no_tags.is_some())
    }

    /// A rule about tags on shared memory.
    pub fn shared_rule(&self, name: &str, show: impl FnOnce(&Self) + Send + 'static) -> Trial {
        if self.no_tags.is_none() && !self.since(SHARED_TAGS) {
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
        self.rule(name, show)
    }

    /// Says why rules are ignored here, if any are.
    pub fn say_what_is_ignored(&self) {
        if let Some(why) = &self.no_tags {
            println!("rules about tags are ignored: {why}");
        } else if let Some(why) = self.probed.support.refusal() {
            println!("rules about tags on shared memory are ignored: {why}");
        }
    }

    /// A rule that needs no tags.
    pub fn plain_rule(&self, name: &str, show: impl FnOnce(&Self) + Send + 'static) -> Trial {
        let host = self.clone();
        Trial::test(name, move || shown(show, &host))
    }
}

/// An assertion that fails panics, which the harness counts as a failed test.
fn shown(show: impl FnOnce(&Host), host: &Host) -> Result<(), Failed> {
    show(host);
    Ok(())
}

/// KVM.
pub fn kvm() -> Kvm {
    Kvm::new().expect("/dev/kvm opens")
}

fn release() -> Release {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel says its release");
    let mut numbers = text.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
