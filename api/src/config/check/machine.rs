//! vCPUs, memory and payload.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Fault};
use super::{Cpus, HOTPLUG_BLOCK, Hotplug, Limits, Memory, Payload};
use crate::config::{CpuTopology, CpusConfig, HotplugMethod, MemoryConfig, PayloadConfig};

/// arm64's COMMAND_LINE_SIZE less the NUL at its end; the kernel cuts off what is longer.
const MAX_CMDLINE: usize = 2047;

/// Below this a guest could not even hold the memory map's fixed devices.
const MIN_PHYS_BITS: u8 = 32;

pub(super) fn cpus(raw: &CpusConfig, limits: &Limits) -> Result<Cpus, ConfigError> {
    let most = limits.max_vcpus.min(u8::MAX.into());
    let boot = vcpus("cpus.boot_vcpus", raw.boot_vcpus, 1, most)?;
    let max = vcpus("cpus.max_vcpus", raw.max_vcpus, 1, most)?;
    if boot > max {
        let text = format!("{boot} is more than cpus.max_vcpus, {max}");
        return Err(ConfigError::new("cpus.boot_vcpus", Fault::Contradiction(text)));
    }
    if let Some(layout) = &raw.topology {
        topology(layout, max)?;
    }
    if raw.max_phys_bits < MIN_PHYS_BITS {
        let (value, min, max) = (raw.max_phys_bits.into(), MIN_PHYS_BITS.into(), u8::MAX.into());
        return Err(ConfigError::new("cpus.max_phys_bits", Fault::OutOfRange { value, min, max }));
    }
    Ok(Cpus {
        boot,
        max,
        topology: raw.topology,
        phys_bits: raw.max_phys_bits.min(limits.ipa_bits),
        mte: raw.features.mte.unwrap_or(limits.mte_default),
        core_scheduling: raw.core_scheduling,
    })
}

fn vcpus(field: &str, value: u32, min: u32, max: u32) -> Result<u8, ConfigError> {
    u8::try_from(value).ok().filter(|_| (min..=max).contains(&value)).ok_or_else(|| {
        ConfigError::new(field, Fault::OutOfRange { value: value.into(), min: min.into(), max: max.into() })
    })
}

fn topology(layout: &CpuTopology, max: u8) -> Result<(), ConfigError> {
    let CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages } = *layout;
    let vcpus = [threads_per_core, cores_per_die, dies_per_package, packages]
        .into_iter()
        .fold(1u64, |product, factor| product * u64::from(factor));
    if vcpus == u64::from(max) {
        return Ok(());
    }
    let text = format!(
        "{threads_per_core} × {cores_per_die} × {dies_per_package} × {packages} is not cpus.max_vcpus, {max}"
    );
    Err(ConfigError::new("cpus.topology", Fault::Contradiction(text)))
}

pub(super) fn memory(raw: &MemoryConfig, phys_bits: u8, limits: &Limits) -> Result<Memory, ConfigError> {
    let at_fault = |fault| Err(ConfigError::new("memory.size", fault));
    let value = raw.size;
    if value == 0 && raw.zones.is_empty() {
        return at_fault(Fault::OutOfRange { value, min: limits.page_size, max: limits.host_memory });
    }
    if !value.is_multiple_of(limits.page_size) {
        return at_fault(Fault::NotPages { value, page_size: limits.page_size });
    }
    if value > limits.host_memory {
        return at_fault(Fault::TooMuch { value, what: "the host has", limit: limits.host_memory });
    }
    let address_space = 1u64.checked_shl(phys_bits.into()).unwrap_or(u64::MAX);
    let limit = address_space.saturating_sub(limits.ram_start);
    if value > limit {
        return at_fault(Fault::TooMuch { value, what: "the guest's address space has room for", limit });
    }
    let hotplug = hotplug(raw, limits, limit - value)?;
    Ok(Memory { size: value, prefault: raw.prefault, thp: raw.thp, reserve: raw.reserve, hotplug })
}

/// What may be plugged, by virtio-mem whatever the method: there is no ACPI. Clients send a size with every VM, up to the
/// memory of the host and of any granularity, and mean ACPI; who asks for virtio-mem means these very bytes.
fn hotplug(raw: &MemoryConfig, limits: &Limits, room: u64) -> Result<Option<Hotplug>, ConfigError> {
    let (asked, plugged) = (raw.hotplug_size.unwrap_or(0), raw.hotplugged_size.unwrap_or(0));
    let whole = |value: u64| value / HOTPLUG_BLOCK * HOTPLUG_BLOCK;
    let size = match raw.hotplug_method {
        // Half of the addresses that RAM leaves are for PCI, and for images.
        HotplugMethod::Acpi => whole(asked.min(limits.host_memory).min(room / 2)),
        HotplugMethod::VirtioMem => asked,
    };
    for (field, value) in [("memory.hotplug_size", size), ("memory.hotplugged_size", plugged)] {
        if value != whole(value) {
            let text = format!("{value} is not a multiple of 2 MiB");
            return Err(ConfigError::new(field, Fault::Contradiction(text)));
        }
    }
    if size > limits.host_memory {
        let fault = Fault::TooMuch { value: size, what: "the host has", limit: limits.host_memory };
        return Err(ConfigError::new("memory.hotplug_size", fault));
    }
    if plugged > size {
        let fault = Fault::TooMuch { value: plugged, what: "memory.hotplug_size", limit: size };
        return Err(ConfigError::new("memory.hotplugged_size", fault));
    }
    Ok((size > 0).then_some(Hotplug { size, plugged }))
}

pub(super) fn payload(raw: &PayloadConfig) -> Result<Payload, ConfigError> {
    let kernel = match &raw.kernel {
        Some(kernel) => path("payload.kernel", kernel)?,
        // The reason why firmware or an IGVM image will not do is given where they are refused.
        None if raw.firmware.is_some() || raw.igvm.is_some() => PathBuf::new(),
        None => {
            return Err(ConfigError::new(
                "payload.kernel",
                Fault::Missing("give the path of an arm64 Image"),
            ));
        }
    };
    let initramfs = match &raw.initramfs {
        Some(initramfs) => Some(path("payload.initramfs", initramfs)?),
        None => None,
    };
    let cmdline = raw.cmdline.clone().unwrap_or_default();
    let at_fault = |fault| Err(ConfigError::new("payload.cmdline", fault));
    if cmdline.contains('\0') {
        return at_fault(Fault::Nul);
    }
    if cmdline.len() > MAX_CMDLINE {
        return at_fault(Fault::TooLong { length: cmdline.len(), what: "an arm64 kernel", max: MAX_CMDLINE });
    }
    Ok(Payload { kernel, initramfs, cmdline })
}

/// A path that names something: not empty, no NUL, no longer than the kernel takes.
pub(super) fn path(field: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    bounded_path(field, path, 4095, "the kernel")
}

/// The path of a Unix socket: as any other, but of 107 bytes at most.
pub(super) fn socket_path(field: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    bounded_path(field, path, 107, "a socket address")
}

fn bounded_path(field: &str, path: &Path, max: usize, what: &'static str) -> Result<PathBuf, ConfigError> {
    let bytes = path.as_os_str().as_bytes();
    let fault = if bytes.is_empty() {
        Fault::Empty
    } else if bytes.contains(&0) {
        Fault::Nul
    } else if bytes.len() > max {
        Fault::TooLong { length: bytes.len(), what, max }
    } else {
        return Ok(path.to_owned());
    };
    Err(ConfigError::new(field, fault))
}
