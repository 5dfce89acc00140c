//! Persistent memory: `pmem:VERB:NUMBER…` on `/dev/pmem0`. Its file system has one file, `data`, of a known pattern.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use granule_tests::{modules, pattern};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use super::{Seen, read};

const DEVICE: &str = "/dev/pmem0";
const FOLDER: &str = "/tmp/pmem";
const DATA: &str = "/tmp/pmem/data";
const MODULES: &str = "/pmem-modules";
/// `PROT_MTE` of asm/mman.h.
const PROT_MTE: u32 = 0x20;

/// Carries out one check.
pub fn look(words: &str) -> Seen {
    let mut words = words.split(':');
    let verb = words.next().unwrap_or_default();
    let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
    wait_for_device()?;
    match (verb, &numbers.map_err(|e| e.to_string())?[..]) {
        ("format", &[seed, length]) => format(seed, length),
        ("read", &[seed, length]) => read_mapped(seed, length),
        ("write", &[seed, length]) => write_mapped(seed, length),
        ("direct", &[seed, length]) => direct(seed, length),
        ("scribble", &[seed, length]) => scribble(seed, length),
        ("held", &[seed, length]) => held(seed, length),
        ("flush", &[length]) => flush(length),
        ("store", &[]) => store(),
        ("tags", &[]) => tags(),
        ("all", &[]) => all(),
        ("raw", &[seed, length]) => raw(seed, length),
        ("leave", &[]) => leave().map(|()| json!({})),
        ("size", &[]) => Ok(json!({"sectors": read("/sys/block/pmem0/size")?.parse::<u64>().ok()})),
        (verb, numbers) => Err(format!("pmem:{verb} with {} numbers", numbers.len())),
    }
}

/// Loads the drivers the first time, and waits until they have found their device.
fn wait_for_device() -> Result<(), String> {
    if !fs::exists(DEVICE).unwrap_or_default()
        && let Some((module, error)) = modules::load_all(MODULES).into_iter().next()
    {
        return Err(format!("{module}: {error}"));
    }
    modules::wait_for_device(DEVICE)
}

fn mounted(flags: MountFlags) -> Result<String, String> {
    let _ = fs::create_dir(FOLDER);
    mount(DEVICE, FOLDER, "ext4", flags, Some(c"dax")).map_err(|e| format!("mount -o dax {DEVICE}: {e}"))?;
    let mounts = read("/proc/mounts")?;
    let line = mounts.lines().find(|line| line.contains(FOLDER)).unwrap_or_default();
    Ok(line.split(' ').nth(3).unwrap_or_default().to_owned())
}

fn leave() -> Result<(), String> {
    unmount(FOLDER, UnmountFlags::empty()).map_err(|e| format!("umount {FOLDER}: {e}"))
}

/// Makes the file system and its file.
fn format(seed: u64, length: u64) -> Seen {
    let made = Command::new("/bin/busybox").args(["mke2fs", "-b", "4096", DEVICE]).output();
    let made = made.map_err(|e| format!("mke2fs: {e}"))?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let options = mounted(MountFlags::empty())?;
    let mut bytes = vec![0; length as usize];
    pattern::fill(&mut bytes, seed, 0);
    let written =
        File::create(DATA).and_then(|file| file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()));
    written.map_err(|e| format!("{DATA}: {e}"))?;
    leave()?;
    Ok(json!({"options": options}))
}

/// The file's own pages, mapped.
struct Pages {
    start: *mut u8,
    length: usize,
}

impl Pages {
    fn map(length: u64, prot: ProtFlags) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(prot.contains(ProtFlags::WRITE)).open(DATA)?;
        let length = length as usize;
        // SAFETY: a new mapping where the kernel likes, of a file that nobody else uses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, prot, MapFlags::SHARED, &file, 0) }?;
        Ok(Self { start: start.cast(), length })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is live, of this length, and used by this thread alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    fn flush(&self) -> Result<(), String> {
        // SAFETY: the mapping is live and of this length.
        unsafe { rustix::mm::msync(self.start.cast(), self.length, MsyncFlags::SYNC) }
            .map_err(|e| format!("msync: {e}"))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

fn read_mapped(seed: u64, length: u64) -> Seen {
    let options = mounted(MountFlags::RDONLY)?;
    let mut pages = Pages::map(length, ProtFlags::READ).map_err(|e| format!("{DATA}: {e}"))?;
    let wrong = pattern::wrong(pages.bytes(), seed, 0);
    Ok(json!({"options": options, "wrong": wrong}))
}

/// Stores through the mapping and waits until the device has it.
fn write_mapped(seed: u64, length: u64) -> Seen {
    let options = mounted(MountFlags::empty())?;
    let mut pages =
        Pages::map(length, ProtFlags::READ | ProtFlags::WRITE).map_err(|e| format!("{DATA}: {e}"))?;
    pattern::fill(pages.bytes(), seed, 0);
    pages.flush()?;
    Ok(json!({"options": options, "flushed": length}))
}

/// Stores through the mapping, and does not wait until the device has it; the file system stays mounted.
fn scribble(seed: u64, length: u64) -> Seen {
    let options = mounted(MountFlags::empty())?;
    let mut pages =
        Pages::map(length, ProtFlags::READ | ProtFlags::WRITE).map_err(|e| format!("{DATA}: {e}"))?;
    pattern::fill(pages.bytes(), seed, 0);
    Ok(json!({"options": options}))
}

/// What is in the file of the file system that is mounted.
fn held(seed: u64, length: u64) -> Seen {
    let mut pages = Pages::map(length, ProtFlags::READ).map_err(|e| format!("{DATA}: {e}"))?;
    Ok(json!({"wrong": pattern::wrong(pages.bytes(), seed, 0)}))
}

/// Waits until the device has the file of the file system that is mounted.
fn flush(length: u64) -> Seen {
    let pages = Pages::map(length, ProtFlags::READ | ProtFlags::WRITE).map_err(|e| format!("{DATA}: {e}"))?;
    pages.flush()?;
    drop(pages);
    leave()?;
    Ok(json!({"flushed": length}))
}

/// Pages of the file as buffers of a disk, in both directions, past every cache of the guest's.
fn direct(seed: u64, length: u64) -> Seen {
    let options = mounted(MountFlags::empty())?;
    let mut pages =
        Pages::map(length, ProtFlags::READ | ProtFlags::WRITE).map_err(|e| format!("{DATA}: {e}"))?;
    let disk = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open("/dev/vda");
    let disk = disk.map_err(|e| format!("/dev/vda: {e}"))?;
    pattern::fill(pages.bytes(), seed, 0);
    disk.write_all_at(pages.bytes(), 0).map_err(|e| format!("the disk takes from DAX pages: {e}"))?;
    pages.bytes().fill(0);
    disk.read_exact_at(pages.bytes(), 0).map_err(|e| format!("the disk gives to DAX pages: {e}"))?;
    pages.flush()?;
    Ok(json!({"options": options, "wrong": pattern::wrong(pages.bytes(), seed, 0)}))
}

/// A store right to the device, by a process that may die of it.
fn store() -> Seen {
    let before = head()?;
    let child = Command::new("/bin/busybox")
        .args(["dd", "if=/dev/zero", "of=/dev/pmem0", "bs=4096", "count=2", "oflag=direct"])
        .output()
        .map_err(|e| format!("dd: {e}"))?;
    let changed = head()? != before;
    Ok(json!({
        "signal": child.status.signal(), "code": child.status.code(), "changed": changed,
        "said": String::from_utf8_lossy(&child.stderr),
    }))
}

/// Writes content to the device as such, and waits until it is on the medium.
fn raw(seed: u64, length: u64) -> Seen {
    let mut bytes = vec![0; length as usize];
    pattern::fill(&mut bytes, seed, 0);
    let device = OpenOptions::new().write(true).open(DEVICE);
    let written = device.and_then(|device| device.write_all_at(&bytes, 0).and_then(|()| device.sync_all()));
    written.map_err(|e| format!("{DEVICE}: {e}"))?;
    Ok(json!({"flushed": length}))
}

/// Reads the whole device.
fn all() -> Seen {
    let copied = File::open(DEVICE).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    Ok(json!({"bytes": copied.map_err(|e| format!("{DEVICE}: {e}"))?}))
}

fn head() -> Result<Vec<u8>, String> {
    // What the guest itself remembers proves nothing.
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| format!("drop_caches: {e}"))?;
    let mut bytes = vec![0; 8192];
    let seen = File::open(DEVICE).and_then(|file| file.read_exact_at(&mut bytes, 0));
    seen.map_err(|e| format!("{DEVICE}: {e}"))?;
    Ok(bytes)
}

/// Whether a program can have tags on pages of the file.
fn tags() -> Seen {
    let options = mounted(MountFlags::RDONLY)?;
    let prot = ProtFlags::READ | ProtFlags::from_bits_retain(PROT_MTE);
    let mapped = Pages::map(4096, prot).map(drop);
    Ok(json!({"options": options, "errno": mapped.err().and_then(|error| error.raw_os_error())}))
}
