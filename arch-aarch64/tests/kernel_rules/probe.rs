//! What the probe says is what this kernel is known to do.

use granule_arch::mte::{MteSupport, WritesWhileLogging};
use libtest_mimic::Trial;

use super::host::{HUGE_TAGS, Host, NO_COPY_WHILE_LOGGING, SHARED_TAGS, kvm};

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.plain_rule("probe_names_the_support_of_this_host", support),
        host.rule("probe_reads_back_the_tags_it_set", |host| assert!(host.probed.copies_tags)),
        host.rule("probe_knows_what_a_copy_does_while_logging", while_logging),
        host.rule("probe_sees_the_level_of_tagging", |host| assert_eq!(host.probed.level, Some(3))),
        host.rule("probe_knows_whether_huge_pages_can_be_tagged", huge_pages),
        host.plain_rule("report_names_what_guests_need", report),
    ]
}

fn support(host: &Host) {
    let expected_tags = std::env::var("GRANULE_LAB_MTE").ok().map(|v| v == "1");
    match &host.probed.support {
        MteSupport::None { why } => {
            assert_ne!(expected_tags, Some(true), "{why}");
            assert!(why.contains("MTE"), "{why}");
        }
        MteSupport::PrivateOnly { why } => {
            assert!(!host.since(SHARED_TAGS), "{why}");
            assert!(why.contains("6.2"), "{why}");
        }
        MteSupport::Shared => assert!(host.since(SHARED_TAGS)),
    }
    if expected_tags == Some(false) {
        assert!(host.no_tags.is_some());
    }
}

fn while_logging(host: &Host) {
    let expected = if host.since(NO_COPY_WHILE_LOGGING) {
        WritesWhileLogging::Refused
    } else {
        WritesWhileLogging::Unlogged
    };
    assert_eq!(host.probed.writes_while_logging, Some(expected));
}

fn huge_pages(host: &Host) {
    assert_eq!(host.probed.huge_pages, Some(host.since(HUGE_TAGS)));
}

fn report(host: &Host) {
    let report = granule_arch::host::report(&kvm()).expect("a report");
    assert_eq!(report.mte, host.probed);
    assert_eq!(report.kvm_api, 12);
    assert!(report.ipa_bits >= 36, "{report:?}");
    assert!(report.gicv3 && report.its, "{report:?}");
    assert!(report.max_vcpus >= 32, "{report:?}");
    assert!(report.kernel.starts_with(&format!("{}.{}", host.release.0, host.release.1)), "{report:?}");
    assert!(report.sve_vector_bits.first().is_none_or(|&bits| bits == 128), "{report:?}");
}
