//! vm.resize: what of a VM has another size, and when.

use granule_api::config::{VmConfig, VmResize};
use granule_api::error::{ApiError, ErrorKind};

use super::refusal::refusal;

/// Takes note of a resize of a VM that is booted: the balloon to be ordered, and its size; nothing if all is to stay as
/// it is.
pub fn live(config: &mut VmConfig, wanted: VmResize) -> Result<Option<(String, u64)>, ApiError> {
    let refused = |reason: &str| Err(refusal(ErrorKind::BadRequest, reason));
    if wanted.desired_vcpus.is_some_and(|count| count != config.cpus.boot_vcpus) {
        return refused(
            "desired_vcpus: the number of vCPUs is fixed at boot: no device tree tells a guest of another; shut the VM down first",
        );
    }
    if wanted.desired_ram.is_some_and(|size| size != config.memory.size) {
        return refused("desired_ram: memory is fixed at boot; a balloon can be resized");
    }
    let Some(size) = wanted.desired_balloon else { return Ok(None) };
    balloon(config, size)?;
    Ok(config.balloon.as_ref().and_then(|balloon| balloon.id.clone()).map(|id| (id, size)))
}

/// Takes note of a resize of a VM that is not booted: all of it is still open. The configuration is to be checked anew.
pub fn cold(config: &mut VmConfig, wanted: VmResize) -> Result<(), ApiError> {
    if let Some(count) = wanted.desired_vcpus {
        if count == 0 || count > config.cpus.max_vcpus {
            let reason = format!(
                "desired_vcpus: {count} is not between 1 and cpus.max_vcpus, {}",
                config.cpus.max_vcpus
            );
            return Err(refusal(ErrorKind::BadRequest, "The VM could not be resized").because(reason));
        }
        config.cpus.boot_vcpus = count;
    }
    if let Some(size) = wanted.desired_ram {
        config.memory.size = size;
    }
    wanted.desired_balloon.map_or(Ok(()), |size| balloon(config, size))
}

fn balloon(config: &mut VmConfig, size: u64) -> Result<(), ApiError> {
    let refused = |reason: &str| Err(refusal(ErrorKind::BadRequest, reason));
    if size > config.memory.size {
        return refused("desired_balloon: more than memory.size");
    }
    let Some(balloon) = &mut config.balloon else { return refused("desired_balloon: the VM has no balloon") };
    balloon.size = size;
    Ok(())
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
        assert_eq!(live(&mut config, balloon(65536)).unwrap(), Some(("b".into(), 65536)));
        assert_eq!(config.balloon.as_ref().unwrap().size, 65536);
        assert!(live(&mut config, balloon(1 << 21)).is_err());
        assert_eq!(config.balloon.as_ref().unwrap().size, 65536);
    }

    #[test]
    fn all_is_open_before_the_boot() {
        let mut config: VmConfig = serde_json::from_str(
            r#"{"cpus":{"boot_vcpus":1,"max_vcpus":4},"memory":{"size":1048576},"balloon":{"size":0}}"#,
        )
        .unwrap();
        let wanted =
            VmResize { desired_vcpus: Some(4), desired_ram: Some(2 << 20), desired_balloon: Some(1 << 20) };
        cold(&mut config, wanted).unwrap();
        assert_eq!((config.cpus.boot_vcpus, config.memory.size), (4, 2 << 20));
        assert_eq!(config.balloon.as_ref().unwrap().size, 1 << 20);
        for count in [0, 5, u32::MAX] {
            let wanted = VmResize { desired_vcpus: Some(count), ..VmResize::default() };
            let error = cold(&mut config, wanted).unwrap_err();
            assert!(format!("{:?}", error.causes()).contains("desired_vcpus"), "{error:?}");
        }
    }

    #[test]
    fn nothing_else_is() {
        let mut config = config("");
        assert!(live(&mut config, balloon(0)).is_err());
        let same = VmResize { desired_vcpus: Some(1), desired_ram: Some(1 << 20), desired_balloon: None };
        assert_eq!(live(&mut config, same).unwrap(), None);
        assert!(live(&mut config, VmResize { desired_vcpus: Some(2), ..same }).is_err());
        assert!(live(&mut config, VmResize { desired_ram: Some(2 << 20), ..same }).is_err());
    }
}
