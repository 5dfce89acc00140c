//! Processors, interrupt controller, timer, PMU and power interface, as Linux found them.

use serde_json::{Value, json};

use super::{Seen, names, read};
use crate::sys::hwcaps;

const HWCAP_SVE: usize = 1 << 22;
const HWCAP_PACA: usize = 1 << 30;
const HWCAP_PACG: usize = 1 << 31;

/// Looks at sysfs, the capability words and the kernel's log.
pub fn look() -> Seen {
    let (hwcap, _) = hwcaps();
    let log = kernel_log()?;
    let line = |words: &[&str]| log.lines().find(|l| words.iter().all(|w| l.contains(w)));
    let pmu = names("/sys/bus/event_source/devices").into_iter().find(|n| n.starts_with("armv8"));
    Ok(json!({
        "online": read("/sys/devices/system/cpu/online")?,
        "possible": read("/sys/devices/system/cpu/possible")?,
        "sve": hwcap & HWCAP_SVE != 0,
        "pauth": hwcap & HWCAP_PACA != 0 && hwcap & HWCAP_PACG != 0,
        "pmu": pmu,
        "cycles": cycles().map_or_else(Value::String, Value::from),
        "clocksource": read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?,
        "psci": line(&["psci: PSCIv"]), "gic": line(&["GICv3:", "SPIs"]), "its": line(&["ITS@"]),
        "timer": line(&["arch_timer: cp15 timer"]),
        "interrupts": interrupts()?,
        "warnings": log.lines().filter(|l| l.contains("WARNING:") || l.contains("BUG:")).collect::<Vec<_>>(),
    }))
}

/// Lines of /proc/interrupts as `{name of the last columns: total over all CPUs}`, for the numbered ones.
fn interrupts() -> Seen {
    let text = read("/proc/interrupts")?;
    let cpus = text.lines().next().map_or(0, |head| head.split_whitespace().count());
    let lines = text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next()?.strip_suffix(':')?.parse::<u32>().ok()?;
        let total: u64 = words.by_ref().take(cpus).filter_map(|w| w.parse::<u64>().ok()).sum();
        Some((words.collect::<Vec<_>>().join(" "), Value::from(total)))
    });
    Ok(Value::Object(lines.collect()))
}

/// The kernel's log from its start.
fn kernel_log() -> Result<String, String> {
    let mut text = vec![0_u8; 1 << 20];
    // SAFETY: SYSLOG_ACTION_READ_ALL (3) writes at most `len` bytes to the buffer, which has that many.
    let len = unsafe { libc::klogctl(3, text.as_mut_ptr().cast(), text.len() as i32) };
    let len = usize::try_from(len).map_err(|_| format!("klogctl: {}", std::io::Error::last_os_error()))?;
    text.truncate(len);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Counts this thread's cycles over a little work with the hardware counter; zero would be a PMU that stands still.
fn cycles() -> Result<u64, String> {
    /// `struct perf_event_attr` up to its first published size (PERF_ATTR_SIZE_VER0).
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup: u32,
        bp_type: u32,
        bp_addr: u64,
    }
    // PERF_TYPE_HARDWARE with PERF_COUNT_HW_CPU_CYCLES are both 0.
    let attr = Attr { size: size_of::<Attr>() as u32, ..Attr::default() };
    // SAFETY: `attr` is a live structure of the size that it states; the call returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, 0, -1, -1, 0) };
    if fd < 0 {
        return Err(format!("perf_event_open: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let mut counter = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd as i32) };
    let work = (0..100_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i));
    std::hint::black_box(work);
    let mut value = [0; 8];
    std::io::Read::read_exact(&mut counter, &mut value).map_err(|e| format!("perf counter: {e}"))?;
    Ok(u64::from_ne_bytes(value))
}
