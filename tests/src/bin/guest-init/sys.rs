//! What only a first process does: mounts, kernel modules, the end of the machine.

use std::fs::{self, File};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

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
