//! What an initramfs does: finds the root file system that the kernel's command line names, and hands over to its `/sbin/init`.
//!
//! `root=DEVICE`, `rootflags=OPTIONS` and `rw` are read as the kernel and every distribution's initramfs read them;
//! `granule.drivers=FOLDER,FOLDER` names folders of modules to be loaded before.

use std::ffi::CString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use granule_tests::modules;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use crate::say;

/// Where it is mounted before it is everything.
const PLACE: &str = "/root";

/// Returns only with the reason why the other init does not run.
pub fn switch() -> String {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    match hand_over(&cmdline) {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn hand_over(cmdline: &str) -> Result<std::convert::Infallible, String> {
    for folder in value(cmdline, "granule.drivers").unwrap_or_default().split(',') {
        for (module, error) in modules::load_all(&format!("/{folder}")) {
            say(&format!("fail module {module}: {error}"));
        }
    }
    let device = value(cmdline, "root").ok_or("there is no root= on the command line")?;
    modules::wait_for_device(device)?;
    let writable = cmdline.split_whitespace().any(|word| word == "rw");
    let flags = if writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let options = CString::new(value(cmdline, "rootflags").unwrap_or_default()).map_err(|e| e.to_string())?;
    mount(device, PLACE, "ext4", flags, Some(options.as_c_str())).map_err(|e| format!("{device}: {e}"))?;
    for folder in ["/dev", "/proc", "/sys"] {
        mount_move(folder, format!("{PLACE}{folder}")).map_err(|e| format!("{folder}: {e}"))?;
    }
    let moved =
        chdir(PLACE).and_then(|()| mount_move(".", "/")).and_then(|()| chroot(".")).and_then(|()| chdir("/"));
    moved.map_err(|e| format!("{PLACE}: {e}"))?;
    Err(format!("/sbin/init: {}", Command::new("/sbin/init").exec()))
}

/// What follows `name=`, the last time if there are several.
fn value<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    let values = cmdline.split_whitespace().filter_map(|word| word.split_once('='));
    values.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn a_value_may_hold_an_equals_sign_and_the_last_one_counts() {
        let cmdline = "root=/dev/vda rootflags=dax=always ro root=/dev/pmem0\n";
        assert_eq!(value(cmdline, "root"), Some("/dev/pmem0"));
        assert_eq!(value(cmdline, "rootflags"), Some("dax=always"));
        assert_eq!(value(cmdline, "rw"), None);
    }
}
