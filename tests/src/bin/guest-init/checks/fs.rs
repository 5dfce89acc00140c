//! A shared directory: mounted by its tag, read and written.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use granule_tests::tree;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use super::Seen;

/// Reads the whole of the directory with this tag.
pub fn read(tag: &str) -> Seen {
    mounted(tag, |folder| Ok(json!(tree::read(&folder)?)))
}

/// Writes a file and a folder into it, and renames one.
pub fn write(tag: &str) -> Seen {
    mounted(tag, |folder| {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let act = || {
            std::fs::create_dir(folder.join("from the guest"))?;
            std::fs::write(folder.join("written"), &bytes)?;
            std::fs::rename(folder.join("written"), folder.join("from the guest/renamed"))
        };
        act().map_err(|e| e.to_string())?;
        Ok(json!(format!("{:016x}", tree::digest(&bytes))))
    })
}

/// Mounts it for good, and has a process keep this file of it open; answers the process.
pub fn hold(tag: &str) -> Seen {
    let folder = folder(tag)?;
    mount(tag, &folder, "virtiofs", MountFlags::empty(), None).map_err(|e| format!("mount {tag}: {e}"))?;
    let act = || {
        let file = File::options().read(true).write(true).open(folder.join("a/b/large"))?;
        Command::new("/bin/busybox").args(["sleep", "1000000"]).stdin(file).spawn()
    };
    Ok(json!(act().map_err(|e| e.to_string())?.id()))
}

/// What is in the file that the process keeps open, and may still be written to.
pub fn held(process: &str) -> Seen {
    let act = || {
        let mut file = File::options().read(true).write(true).open(format!("/proc/{process}/fd/0"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        file.write_all(b"more")?;
        file.sync_all()?;
        std::io::Result::Ok(bytes)
    };
    Ok(json!(format!("{:016x}", tree::digest(&act().map_err(|e| e.to_string())?))))
}

fn folder(tag: &str) -> Result<PathBuf, String> {
    let folder = PathBuf::from(format!("/tmp/{tag}"));
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok(folder)
}

fn mounted(tag: &str, act: impl FnOnce(PathBuf) -> Seen) -> Seen {
    let folder = folder(tag)?;
    mount(tag, &folder, "virtiofs", MountFlags::empty(), None).map_err(|e| format!("mount {tag}: {e}"))?;
    let seen = act(folder.clone());
    let left = unmount(&folder, UnmountFlags::DETACH).map_err(|e| format!("unmount {tag}: {e}"));
    left.and(seen)
}
