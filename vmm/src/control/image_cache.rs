//! The folder of images that are in memory once for all VMs of a user (see `granule_devices::pmem`, whose processes load
//! and lock what is opened here).
//!
//! ```text
//!  XDG_RUNTIME_DIR or /dev/shm / granule-UID / pmem-SIZE-DEV-INO-LENGTH-MTIME-CTIME
//! ```
//! A file system in memory, a folder that is the user's alone, a name that is another one when the image is. A file that
//! nobody has locked belongs to no VM: whoever finds one takes it away, so that a host on which everything was killed is
//! tidy from the next VM on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use granule_devices::pmem::{CacheFile, Identity, is_loaded};
use rustix::fs::{FlockOperation, flock, statfs, statvfs};

const TMPFS_MAGIC: i64 = 0x0102_1994;
const PREFIX: &str = "pmem-";

/// Opens the file in memory for what `image` holds now. Whether it is loaded yet, or is this moment being loaded by
/// another VM, is for the device process to find out: nothing here waits.
pub fn open(image: &File, size: u64) -> io::Result<CacheFile> {
    let name = format!("{PREFIX}{size:x}-{}", Identity::of(image)?.name());
    let folders: Vec<PathBuf> = folders().filter_map(|folder| own(&folder).ok()).collect();
    folders.iter().for_each(|folder| sweep_folder(folder, Some(&name)));
    for folder in &folders {
        if let Ok(reader) = read_only(&folder.join(&name))
            && is_loaded(&reader)?
        {
            return Ok(CacheFile { reader, writer: None });
        }
    }
    let needed = image.metadata()?.blocks().saturating_mul(512).min(size);
    let folder = folders.iter().find(|folder| room(folder) >= needed).ok_or_else(|| {
        let text = format!("neither $XDG_RUNTIME_DIR nor /dev/shm is a tmpfs with {needed} bytes of room");
        io::Error::new(io::ErrorKind::StorageFull, text)
    })?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let writer = options.custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(folder.join(&name))?;
    // The very same file, and not what may be of this name by now.
    let reader = read_only(Path::new(&format!("/proc/self/fd/{}", writer.as_raw_fd())))?;
    // What is mapped has its size from the start; a loader that empties it is alone with it.
    writer.set_len(size)?;
    Ok(CacheFile { reader, writer: Some(writer) })
}

/// Takes away what no VM has any more.
pub fn sweep() {
    for folder in folders().filter(|folder| folder.is_dir()) {
        sweep_folder(&folder, None);
    }
}

fn sweep_folder(folder: &Path, keep: Option<&str>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && keep != Some(&*name) {
            // Another sweeper may be faster.
            let _ = remove_unused(&entry.path());
        }
    }
}

/// Removes a file that nobody has locked.
fn remove_unused(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let (ours, named) = (file.metadata()?, path.symlink_metadata()?);
    if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn read_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path)
}

/// Where the folder may be, the best place first.
fn folders() -> impl Iterator<Item = PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let user = rustix::process::geteuid().as_raw();
    let memory = runtime.into_iter().chain([PathBuf::from("/dev/shm")]);
    memory.filter(|path| is_in_memory(path)).map(move |path| path.join(format!("granule-{user}")))
}

fn is_in_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC)
}

/// Bytes that are free there.
fn room(folder: &Path) -> u64 {
    let Ok(stat) = statvfs(folder) else { return 0 };
    // A tmpfs without a limit says that it has no blocks.
    if stat.f_blocks == 0 { u64::MAX } else { stat.f_bavail.saturating_mul(stat.f_frsize) }
}

/// Makes the folder, or makes sure that it is ours alone.
fn own(folder: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = folder.symlink_metadata()?;
    let user = rustix::process::geteuid().as_raw();
    let ours = found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0;
    if ours { Ok(folder.to_owned()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
