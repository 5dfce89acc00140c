//! A driver of the watchdog in user space, for Linux has none: finds the function, sets it up by its BAR, pings once.
//!
//! ```text
//!   sysfs ─► enable, resource0 mapped ─► reset, features, one queue in a locked page ─► DRIVER_OK ─► one buffer ─► used
//! ```
//! After that it never pings again.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Seen, names, read};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Virtio's device number 35 as a PCI device.
const DEVICE: &str = "0x1063";
const PAGE: usize = 4096;
/// Where granule puts the structures into BAR 0.
const NOTIFY: usize = 0x3000;
const BAR_SIZE: usize = 0x8000;

/// Memory that hardware sees: volatile words at offsets.
struct Words(*mut u8);

impl Words {
    fn put<T>(&self, offset: usize, value: T) {
        // SAFETY: every caller stays within the mapping that the pointer was made of, at multiples of the type's size.
        unsafe { self.0.add(offset).cast::<T>().write_volatile(value) };
    }

    fn get<T>(&self, offset: usize) -> T {
        // SAFETY: as above.
        unsafe { self.0.add(offset).cast::<T>().read_volatile() }
    }
}

/// Pings once, and says how long the answer took.
pub fn ping_once() -> Seen {
    let of_kind = |bdf: &String| read(&format!("{DEVICES}/{bdf}/device")).is_ok_and(|id| id == DEVICE);
    let bdf = names(DEVICES).into_iter().find(of_kind).ok_or("there is no watchdog")?;
    let folder = format!("{DEVICES}/{bdf}");
    // virtio-pci has taken the function, although no driver has taken the device behind it.
    let _ = fs::write(format!("{folder}/driver/unbind"), &bdf);
    fs::write(format!("{folder}/enable"), "1").map_err(|e| format!("enable: {e}"))?;
    let bar = map(Some(&format!("{folder}/resource0")), BAR_SIZE)?;
    let page = map(None, PAGE)?;
    let address = physical(page.0 as u64)?;

    // Common configuration: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK.
    for status in [0_u8, 1, 3] {
        bar.put(0x14, status);
    }
    for (select, features) in [(0_u32, 0_u32), (1, 1)] {
        bar.put(0x08, select);
        bar.put(0x0c, features);
    }
    bar.put(0x14, 11_u8);
    // Queue 0: four descriptors, the rings in one page; no interrupts.
    bar.put(0x16, 0_u16);
    bar.put(0x18, 4_u16);
    for (register, offset) in [(0x20, 0), (0x28, 1024), (0x30, 2048)] {
        let ring = address + offset;
        bar.put(register, ring as u32);
        bar.put(register + 4, (ring >> 32) as u32);
    }
    bar.put(0x1c, 1_u16);
    bar.put(0x14, 15_u8);
    // One writable byte at the page's end, made available.
    page.put(0, address + 3072);
    page.put(8, 1_u32);
    page.put(12, 2_u16);
    page.put(1024 + 4, 0_u16);
    fence(Ordering::SeqCst);
    page.put(1024 + 2, 1_u16);
    fence(Ordering::SeqCst);
    let asked = Instant::now();
    bar.put(NOTIFY, 0_u16);
    while page.get::<u16>(2048 + 2) != 1 {
        if asked.elapsed() > Duration::from_secs(30) {
            return Err(format!("no answer; the status is {}", bar.get::<u8>(0x14)));
        }
        std::thread::yield_now();
    }
    Ok(json!({"answer": page.get::<u8>(3072), "status": bar.get::<u8>(0x14)}))
}

/// Maps a file, or fresh memory that stays where it is.
fn map(path: Option<&str>, length: usize) -> Result<Words, String> {
    use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let mapped = match path {
        Some(path) => {
            let file =
                OpenOptions::new().read(true).write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
            // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
            unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }
        }
        // SAFETY: as above.
        None => unsafe { mmap_anonymous(std::ptr::null_mut(), length, access, MapFlags::SHARED) },
    };
    let mapped = mapped.map_err(|e| format!("mmap: {e}"))?;
    if path.is_none() {
        // SAFETY: the range was mapped a moment ago.
        unsafe { mlock(mapped, length) }.map_err(|e| format!("mlock: {e}"))?;
    }
    Ok(Words(mapped.cast()))
}

/// The guest-physical address of a page of ours, by `/proc/self/pagemap`.
fn physical(address: u64) -> Result<u64, String> {
    let pagemap = OpenOptions::new().read(true).open("/proc/self/pagemap").map_err(|e| e.to_string())?;
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, address / PAGE as u64 * 8).map_err(|e| e.to_string())?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 0 || frame == 0 {
        return Err(format!("no frame behind the page: {entry:#x}"));
    }
    Ok(frame * PAGE as u64)
}
