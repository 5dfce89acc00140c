//! What only a first process does: mounts, kernel modules, the end of the machine.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel itself unpacks the module.
const COMPRESSED: i32 = 4;

/// Mounts what programs expect; what failed is returned, since a guest without `/dev/shm` still has news.
pub fn mount_all() -> Vec<(&'static str, String)> {
    let wanted = [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("tmpfs", "/dev/shm", "tmpfs"),
        ("tmpfs", "/tmp", "tmpfs"),
    ];
    let mut failed = Vec::new();
    for (source, target, kind) in wanted {
        let made = fs::create_dir_all(target).map_err(|e| e.to_string());
        let mounted = made
            .and_then(|()| mount(source, target, kind, MountFlags::empty(), None).map_err(|e| e.to_string()));
        if let Err(error) = mounted {
            failed.push((target, error));
        }
    }
    failed
}

/// Loads every module of a folder in the order of the names; returns those that the kernel refused.
pub fn load_modules(folder: &str) -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let mut refused = Vec::new();
    for path in paths {
        if let Err(error) = load_module(&path) {
            refused.push((path.display().to_string(), error));
        }
    }
    refused
}

fn load_module(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let packed = path.extension().is_some_and(|e| e == "xz" || e == "zst" || e == "gz");
    let options = CString::default();
    finit_module(&file, &options, if packed { COMPRESSED } else { 0 }).map_err(|e| e.to_string())
}

/// Ends or restarts the machine; it returns only with the reason why that did not happen.
pub fn stop_machine(how: RebootCommand) -> String {
    rustix::fs::sync();
    match reboot(how) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// `BLKDISCARD` of linux/fs.h.
pub const BLKDISCARD: u32 = 0x1277;
/// `BLKZEROOUT` of linux/fs.h.
pub const BLKZEROOUT: u32 = 0x127f;

/// Asks a block device for `request`, one of the above, on a range.
pub fn block_range(file: &File, request: u32, offset: u64, length: u64) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let range = [offset, length];
    // SAFETY: both requests read two numbers from there and keep nothing.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::c_ulong::from(request), range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The hardware capability words (AT_HWCAP, AT_HWCAP2) that the kernel gave this process.
pub fn hwcaps() -> (usize, usize) {
    rustix::param::linux_hwcap()
}
