//! A VM from flags.

use std::path::PathBuf;

use granule_api::config::{
    ConsoleConfig, CpusConfig, DebugConsoleConfig, MemoryConfig, PayloadConfig, SerialConfig, VmConfig,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::grammar::{OptionError, read, read_as, typed};
use super::keys::{self, Keys};
use super::run::UsageError;
use super::typed::Run;
use super::{CliError, line};

/// Memory of a VM whose flags do not tell.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// The VM that the flags describe; none if no flag does.
pub(super) fn config(flags: &Run) -> Result<Option<VmConfig>, CliError> {
    if flags.kernel.is_none() && flags.firmware.is_none() && flags.igvm.is_none() {
        return match first_flag(flags) {
            Some(flag) if flags.restore.is_none() => Err(UsageError::NoKernel(flag).into()),
            _ => Ok(None),
        };
    }
    let default = VmConfig::default();
    Ok(Some(VmConfig {
        cpus: cpus(flags.cpus.as_deref())?,
        memory: memory(flags)?,
        payload: payload(flags),
        rate_limit_groups: each("--rate-limit-group", &flags.rate_limit_group, keys::RATE_LIMIT_GROUP)?,
        disks: each("--disk", &flags.disk, keys::DISK)?,
        net: each("--net", &flags.net, keys::NET)?,
        rng: once("--rng", flags.rng.as_deref(), keys::RNG)?.unwrap_or_default(),
        balloon: once("--balloon", flags.balloon.as_deref(), keys::BALLOON)?,
        fs: each("--fs", &flags.fs, keys::FS)?,
        generic_vhost_user: each(
            "--generic-vhost-user",
            &flags.generic_vhost_user,
            keys::GENERIC_VHOST_USER,
        )?,
        pmem: each("--pmem", &flags.pmem, keys::PMEM)?,
        serial: output::<SerialConfig>("--serial", flags.serial.as_deref())?.unwrap_or(default.serial),
        console: output::<ConsoleConfig>("--console", flags.console.as_deref())?.unwrap_or(default.console),
        debug_console: output::<DebugConsoleConfig>("--debug-console", flags.debug_console.as_deref())?,
        devices: each("--device", &flags.device, keys::DEVICE)?,
        user_devices: each("--user-device", &flags.user_device, keys::USER_DEVICE)?,
        vdpa: each("--vdpa", &flags.vdpa, keys::VDPA)?,
        vsock: once("--vsock", flags.vsock.as_deref(), keys::VSOCK)?,
        numa: each("--numa", &flags.numa, keys::NUMA)?,
        iommu: false,
        watchdog: flags.watchdog,
        rtc: None,
        pvpanic: flags.pvpanic,
        pci_segments: each("--pci-segment", &flags.pci_segment, keys::PCI_SEGMENT)?,
        platform: once("--platform", flags.platform.as_deref(), keys::PLATFORM)?,
        tpm: once("--tpm", flags.tpm.as_deref(), keys::TPM)?,
        landlock_enable: flags.landlock,
        landlock_rules: each("--landlock-rules", &flags.landlock_rules, keys::LANDLOCK_RULES)?,
    }))
}

fn payload(flags: &Run) -> PayloadConfig {
    let path = |text: &Option<String>| text.as_ref().map(PathBuf::from);
    PayloadConfig {
        firmware: path(&flags.firmware),
        kernel: path(&flags.kernel),
        cmdline: flags.cmdline.clone(),
        initramfs: path(&flags.initramfs),
        igvm: path(&flags.igvm),
        host_data: flags.host_data.clone(),
    }
}

/// Without `max` there are never more vCPUs than at boot.
fn cpus(text: Option<&str>) -> Result<CpusConfig, OptionError> {
    const OPTION: &str = "--cpus";
    let Some(text) = text else { return Ok(CpusConfig::default()) };
    let mut object = read(OPTION, text, keys::CPUS)?;
    default(&mut object, "boot_vcpus", 1.into());
    let boot = object["boot_vcpus"].clone();
    default(&mut object, "max_vcpus", boot);
    typed(OPTION, object)
}

fn memory(flags: &Run) -> Result<MemoryConfig, OptionError> {
    const OPTION: &str = "--memory";
    let mut object = read(OPTION, flags.memory.as_deref().unwrap_or("thp=on"), keys::MEMORY)?;
    default(&mut object, "size", DEFAULT_MEMORY.into());
    let mut memory: MemoryConfig = typed(OPTION, object)?;
    memory.zones = each("--memory-zone", &flags.memory_zone, keys::MEMORY_ZONE)?;
    Ok(memory)
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none() {
        object[field] = value;
    }
}

fn once<T: DeserializeOwned>(option: &str, text: Option<&str>, keys: Keys) -> Result<Option<T>, OptionError> {
    text.map(|text| read_as(option, text, keys)).transpose()
}

fn each<T: DeserializeOwned>(option: &str, texts: &[String], keys: Keys) -> Result<Vec<T>, OptionError> {
    texts.iter().map(|text| read_as(option, text, keys)).collect()
}

fn output<T: DeserializeOwned>(option: &str, text: Option<&str>) -> Result<Option<T>, OptionError> {
    text.map(|text| typed(option, line::output(option, text)?)).transpose()
}

/// The first flag that describes a VM, to name it where there is no VM.
pub(super) fn first_flag(flags: &Run) -> Option<&'static str> {
    let once = [
        ("--kernel", &flags.kernel),
        ("--firmware", &flags.firmware),
        ("--igvm", &flags.igvm),
        ("--initramfs", &flags.initramfs),
        ("--cmdline", &flags.cmdline),
        ("--host-data", &flags.host_data),
        ("--cpus", &flags.cpus),
        ("--memory", &flags.memory),
        ("--platform", &flags.platform),
        ("--serial", &flags.serial),
        ("--console", &flags.console),
        ("--debug-console", &flags.debug_console),
        ("--rng", &flags.rng),
        ("--vsock", &flags.vsock),
        ("--balloon", &flags.balloon),
        ("--tpm", &flags.tpm),
    ];
    let each = [
        ("--memory-zone", &flags.memory_zone),
        ("--disk", &flags.disk),
        ("--net", &flags.net),
        ("--fs", &flags.fs),
        ("--pmem", &flags.pmem),
        ("--generic-vhost-user", &flags.generic_vhost_user),
        ("--device", &flags.device),
        ("--user-device", &flags.user_device),
        ("--vdpa", &flags.vdpa),
        ("--rate-limit-group", &flags.rate_limit_group),
        ("--pci-segment", &flags.pci_segment),
        ("--numa", &flags.numa),
        ("--landlock-rules", &flags.landlock_rules),
    ];
    let toggles = [("--watchdog", flags.watchdog), ("--pvpanic", flags.pvpanic)];
    let once = once.into_iter().filter(|(_, text)| text.is_some()).map(|(flag, _)| flag);
    let each = each.into_iter().filter(|(_, texts)| !texts.is_empty()).map(|(flag, _)| flag);
    let toggles = toggles.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag);
    once.chain(each).chain(toggles).next()
}
