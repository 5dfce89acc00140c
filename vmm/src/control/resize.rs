//! vm.resize: what of a VM has another size, and when.

use granule_api::config::{Checked, HOTPLUG_BLOCK, MemoryConfig, VmConfig, VmResize};
use granule_api::error::{ApiError, ErrorKind};

use super::devices::MEM_ID;
use super::refusal::refusal;
use super::vm::Created;

/// What the process of a device is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeOrder {
    /// The device.
    pub id: String,
    /// The flag by which a successor is told.
    pub flag: &'static str,
    /// Bytes.
    pub size: u64,
}

/// Takes note of a resize of a VM that is booted: who is to be told; nobody if all is to stay as it is.
pub fn live(created: &mut Created, wanted: VmResize) -> Result<Vec<SizeOrder>, ApiError> {
    let room = created.checked.memory.hotplug.map_or(0, |hotplug| hotplug.size);
    let orders = orders(&mut created.config, room, wanted)?;
    take_note(&created.config, &mut created.checked);
    Ok(orders)
}

/// What is to be another size, in a configuration that lets `room` bytes be plugged.
fn orders(config: &mut VmConfig, room: u64, wanted: VmResize) -> Result<Vec<SizeOrder>, ApiError> {
    let refused = |reason: &str| Err(refusal(ErrorKind::BadRequest, reason));
    if wanted.desired_vcpus.is_some_and(|count| count != config.cpus.boot_vcpus) {
        return refused(
            "desired_vcpus: the number of vCPUs is fixed at boot: no device tree tells a guest of another; shut the VM down first",
        );
    }
    let mut resized = config.clone();
    let mut orders = Vec::new();
    if let Some(size) = wanted.desired_ram {
        orders.extend(memory(&mut resized.memory, room, size)?);
    }
    if let Some(size) = wanted.desired_balloon {
        balloon(&mut resized, size)?;
        let id = resized.balloon.as_ref().and_then(|balloon| balloon.id.clone());
        orders.extend(id.map(|id| SizeOrder { id, flag: "--size", size }));
    }
    *config = resized;
    Ok(orders)
}

/// `desired_ram` is what was there at the boot and what is plugged, together.
fn memory(memory: &mut MemoryConfig, room: u64, desired: u64) -> Result<Option<SizeOrder>, ApiError> {
    let refused =
        |reason: String| Err(refusal(ErrorKind::BadRequest, "The VM could not be resized").because(reason));
    if room == 0 {
        return match desired == memory.size {
            true => Ok(None),
            false => refused(
                "desired_ram: memory of this VM is fixed at boot: memory.hotplug_size lets it \
                 grow, a balloon lets it shrink"
                    .into(),
            ),
        };
    }
    let most = memory.size.saturating_add(room);
    let Some(size) = desired.checked_sub(memory.size).filter(|size| *size <= room) else {
        return refused(format!(
            "desired_ram: {desired} is not between memory.size, {}, and that and memory.hotplug_size, {most}; below, a balloon lets \
             memory shrink",
            memory.size
        ));
    };
    if !size.is_multiple_of(HOTPLUG_BLOCK) {
        return refused(format!(
            "desired_ram: {desired} is not memory.size, {}, and a multiple of 2 MiB",
            memory.size
        ));
    }
    memory.hotplugged_size = Some(size);
    Ok(Some(SizeOrder { id: MEM_ID.into(), flag: "--requested", size }))
}

/// What is to be the same after the guest's next boot.
fn take_note(config: &VmConfig, checked: &mut Checked) {
    if let Some(hotplug) = &mut checked.memory.hotplug {
        hotplug.plugged = config.memory.hotplugged_size.unwrap_or(0);
    }
    if let (Some(balloon), Some(raw)) = (&mut checked.balloon, &config.balloon) {
        balloon.size = raw.size;
    }
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
        let order = SizeOrder { id: "b".into(), flag: "--size", size: 65536 };
        assert_eq!(orders(&mut config, 0, balloon(65536)).unwrap(), [order]);
        assert_eq!(config.balloon.as_ref().unwrap().size, 65536);
        assert!(orders(&mut config, 0, balloon(1 << 21)).is_err());
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
    fn memory_is_plugged_in_whole_blocks_as_far_as_there_is_room() {
        let mut config: VmConfig = serde_json::from_str(
            r#"{"memory":{"size":1073741824,"hotplug_size":268435456},"balloon":{"size":0,"id":"b"}}"#,
        )
        .unwrap();
        let ram = |size| VmResize { desired_ram: Some(size), ..VmResize::default() };
        let order = |size| SizeOrder { id: MEM_ID.into(), flag: "--requested", size };
        for size in [0, 2 << 20, 256 << 20] {
            assert_eq!(orders(&mut config, 256 << 20, ram((1 << 30) + size)).unwrap(), [order(size)]);
            assert_eq!(config.memory.hotplugged_size, Some(size));
        }
        let before = config.clone();
        for size in [0, (1 << 30) - (2 << 20), (1 << 30) + (258 << 20), (1 << 30) + 4096, u64::MAX] {
            orders(&mut config, 256 << 20, ram(size)).unwrap_err();
        }
        // The balloon is too large: nor is memory plugged.
        let both = |balloon| VmResize { desired_balloon: Some(balloon), ..ram(1 << 30) };
        orders(&mut config, 256 << 20, both(2 << 30)).unwrap_err();
        assert_eq!(config, before);
        assert_eq!(orders(&mut config, 256 << 20, both(1 << 20)).unwrap().len(), 2);
        orders(&mut config, 0, ram((1 << 30) + (2 << 20))).unwrap_err();
    }

    #[test]
    fn nothing_else_is() {
        let mut config = config("");
        assert!(orders(&mut config, 0, balloon(0)).is_err());
        let same = VmResize { desired_vcpus: Some(1), desired_ram: Some(1 << 20), desired_balloon: None };
        assert_eq!(orders(&mut config, 0, same).unwrap(), []);
        assert!(orders(&mut config, 0, VmResize { desired_vcpus: Some(2), ..same }).is_err());
        assert!(orders(&mut config, 0, VmResize { desired_ram: Some(2 << 20), ..same }).is_err());
    }
}
