//! The balloon from the API's side: what the guest is asked to give back, and what it says it has given.

use std::time::Duration;

use granule_api::config::{VmConfig, VmResize};
use granule_api::error::{ApiError, ErrorKind};

use super::orders::Orders;
use super::refusal::refusal;

/// How long vm.info waits for the balloon's process.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes that the guest says it has given back; none if nobody can say so.
pub async fn given(orders: &Orders) -> u64 {
    let answer = tokio::time::timeout(PATIENCE, orders.give(b"", None)).await;
    let text = answer.ok().and_then(Result::ok).and_then(|answer| String::from_utf8(answer).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Takes note of a resize: the balloon to be ordered, and its size; nothing if all is to stay as it is.
pub fn resize(config: &mut VmConfig, wanted: VmResize) -> Result<Option<(String, u64)>, ApiError> {
    let refused = |reason: &str| Err(refusal(ErrorKind::BadRequest, reason));
    if wanted.desired_vcpus.is_some_and(|count| count != config.cpus.boot_vcpus) {
        return refused("desired_vcpus: the number of vCPUs is fixed at boot");
    }
    if wanted.desired_ram.is_some_and(|size| size != config.memory.size) {
        return refused("desired_ram: memory is fixed at boot; a balloon can be resized");
    }
    let Some(size) = wanted.desired_balloon else { return Ok(None) };
    if size > config.memory.size {
        return refused("desired_balloon: more than memory.size");
    }
    let Some(balloon) = &mut config.balloon else { return refused("desired_balloon: the VM has no balloon") };
    balloon.size = size;
    Ok(balloon.id.clone().map(|id| (id, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(balloon: &str) -> VmConfig {
        serde_json::from_str(&format!(r#"{{"memory":{{"size":1048576}}{balloon}}}"#)).unwrap()
    }

    fn balloon(size: u64) -> VmResize {
        VmResize { desired_balloon: Some(size), ..VmResize::default() }
    }

    #[test]
    fn a_balloon_is_resized_within_memory() {
        let mut config = config(r#","balloon":{"size":0,"id":"b"}"#);
        assert_eq!(resize(&mut config, balloon(65536)).unwrap(), Some(("b".into(), 65536)));
        assert_eq!(config.balloon.as_ref().unwrap().size, 65536);
        assert!(resize(&mut config, balloon(1 << 21)).is_err());
        assert_eq!(config.balloon.as_ref().unwrap().size, 65536);
    }

    #[test]
    fn nothing_else_is() {
        let mut config = config("");
        assert!(resize(&mut config, balloon(0)).is_err());
        let same = VmResize { desired_vcpus: Some(1), desired_ram: Some(1 << 20), desired_balloon: None };
        assert_eq!(resize(&mut config, same).unwrap(), None);
        assert!(resize(&mut config, VmResize { desired_vcpus: Some(2), ..same }).is_err());
        assert!(resize(&mut config, VmResize { desired_ram: Some(2 << 20), ..same }).is_err());
    }
}
