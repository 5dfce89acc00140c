//! `net_fds` of vm.restore: taps that come along, for interfaces of the snapshot.
//!
//! Descriptors do not outlive the process that had them. An interface that was given its taps so must be given new ones; one
//! that had its tap by name may be.

use std::os::fd::OwnedFd;

use granule_api::config::{PASSED_FD, RestoredNetConfig, VmConfig};

use super::super::vm::PassedFds;

/// Why taps cannot be given to interfaces.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetFdsError {
    /// Not as many as were named.
    #[error("net_fds: {named} descriptors are named, and {came} came along")]
    Count {
        /// In the body.
        named: usize,
        /// With it.
        came: usize,
    },
    /// An interface without any.
    #[error("net_fds: `{0}` is to have no descriptor; leave it out")]
    None(String),
    /// An interface that is named twice.
    #[error("net_fds: `{0}` is named twice")]
    Twice(String),
    /// An interface that is not there.
    #[error("net_fds: the snapshot has no network interface `{0}`")]
    Unknown(String),
    /// An interface that needs them.
    #[error(
        "net[{index}].fds: the taps of `{id}` came as descriptors, which no snapshot holds; send new ones and name them in net_fds"
    )]
    Missing {
        /// Its place.
        index: usize,
        /// Its name.
        id: String,
    },
}

/// Shares out what came along, in the order in which it is named.
pub fn assign(named: &[RestoredNetConfig], fds: Vec<OwnedFd>) -> Result<PassedFds, NetFdsError> {
    let (sum, came) = (named.iter().fold(0_usize, |sum, net| sum.saturating_add(net.num_fds)), fds.len());
    if sum != came {
        return Err(NetFdsError::Count { named: sum, came });
    }
    let (mut fds, mut taps) = (fds.into_iter(), PassedFds::new());
    for RestoredNetConfig { id, num_fds, fds: _ } in named {
        if *num_fds == 0 {
            return Err(NetFdsError::None(id.clone()));
        }
        if taps.insert(id.clone(), fds.by_ref().take(*num_fds).collect()).is_some() {
            return Err(NetFdsError::Twice(id.clone()));
        }
    }
    Ok(taps)
}

/// Has the interfaces of a configuration have them instead of what they had.
pub fn give(config: &mut VmConfig, taps: &PassedFds) -> Result<(), NetFdsError> {
    for (id, taps) in taps {
        let net = config.net.iter_mut().find(|net| net.id.as_ref() == Some(id));
        let net = net.ok_or_else(|| NetFdsError::Unknown(id.clone()))?;
        net.fds = vec![PASSED_FD; taps.len()];
        net.tap = None;
    }
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    let mut missing = config.net.iter().enumerate().filter(|(_, net)| !net.fds.is_empty());
    match missing.find(|(_, net)| !taps.contains_key(&id(&net.id))) {
        Some((index, net)) => Err(NetFdsError::Missing { index, id: id(&net.id) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(json: &str) -> Vec<RestoredNetConfig> {
        serde_json::from_str(json).unwrap()
    }

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    fn config() -> VmConfig {
        serde_json::from_str(
            r#"{"payload":{"kernel":"/boot/Image"},"net":[{"id":"a","tap":"t"},{"id":"b","fds":[-1]}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn descriptors_go_to_interfaces_in_the_order_of_the_body() {
        let taps = assign(&named(r#"[{"id":"b","num_fds":2},{"id":"a","num_fds":1}]"#), fds(3)).unwrap();
        assert_eq!((taps["a"].len(), taps["b"].len()), (1, 2));
        let mut config = config();
        give(&mut config, &taps).unwrap();
        assert_eq!((config.net[0].tap.as_deref(), &config.net[0].fds[..]), (None, &[-1][..]));
        assert_eq!(config.net[1].fds, [-1, -1]);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let refused = |json, count| assign(&named(json), fds(count)).unwrap_err();
        assert_eq!(refused(r#"[{"id":"a","num_fds":2}]"#, 1), NetFdsError::Count { named: 2, came: 1 });
        assert_eq!(refused("[]", 1), NetFdsError::Count { named: 0, came: 1 });
        assert_eq!(refused(r#"[{"id":"a"}]"#, 0), NetFdsError::None("a".into()));
        let twice = r#"[{"id":"a","num_fds":1},{"id":"a","num_fds":1}]"#;
        assert_eq!(refused(twice, 2), NetFdsError::Twice("a".into()));
        let most = format!(r#"[{{"id":"a","num_fds":{}}},{{"id":"b","num_fds":2}}]"#, usize::MAX);
        assert_eq!(refused(&most, 1), NetFdsError::Count { named: usize::MAX, came: 1 });
        let other = assign(&named(r#"[{"id":"c","num_fds":1}]"#), fds(1)).unwrap();
        assert_eq!(give(&mut config(), &other), Err(NetFdsError::Unknown("c".into())));
        let missing = NetFdsError::Missing { index: 1, id: "b".into() };
        assert_eq!(give(&mut config(), &PassedFds::new()), Err(missing));
    }
}
