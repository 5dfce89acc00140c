//! The file tree of one VM: its directory as the root, with device nodes, processes and kernel settings of this namespace alone.
//!
//! | path | is | for |
//! |---|---|---|
//! | `/` | DIR/ID, without set-uid, device nodes and programs | images, sockets, snapshots: what the API names |
//! | `/dev` | a small file system with the few nodes below, owned by the user | KVM, taps, userfaultfd, entropy |
//! | `/proc` | the processes that the user may see: its own | metrics, our own binary |
//! | `/sys` | the host's | what the host does with huge pages |

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, fchmod, fchown, fstat, makedev, mknodat, stat,
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_move, mount_remount, move_mount, open_tree,
    unmount,
};

use super::place::{directory, made_below};
use super::{Failed, at};
use crate::sys;

/// Nodes of the host's `/dev` that a VM may need; those that the host has not are not there.
const NODES: [&str; 5] = ["null", "urandom", "random", "kvm", "userfaultfd"];
/// In a directory of its own.
const TUN: &str = "tun";

const ALL: Mode = Mode::from_raw_mode(0o755);
const OWN: Mode = Mode::from_raw_mode(0o700);

/// Makes `path`/`id` the root of this process and of all that descend from it.
pub(super) fn enter(path: &Path, id: &str, owner: Option<(u32, u32)>) -> Result<(), Failed> {
    // First: what is opened in another namespace cannot be mounted on in this one.
    sys::unshare(libc::CLONE_NEWNS).map_err(at("leaving the host's mounts, which takes root"))?;
    sys::make_mounts_private().map_err(at("keeping its mounts from the host"))?;
    let parent = directory(path).map_err(at("opening it"))?;
    let root = made_below(parent.as_fd(), id, OWN).map_err(at("making the VM's directory"))?;
    give(root.as_fd(), owner)?;
    // A copy of the directory as a file system of its own, on top of itself: only such can become the root.
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&root, "", flags).map_err(at("making it a file system"))?;
    cover(tree.as_fd(), root.as_fd()).map_err(at("mounting it"))?;

    let folder = |name| made_below(tree.as_fd(), name, ALL).map_err(at("making a directory in it"));
    let (dev, proc, sys) = (folder("dev")?, folder("proc")?, folder("sys")?);
    let devices = devices(owner).map_err(at("making its /dev"))?;
    cover(devices.as_fd(), dev.as_fd()).map_err(at("mounting its /dev"))?;
    let processes = file_system("proc", &[("hidepid", "invisible")], MountAttrFlags::empty());
    cover(processes.map_err(at("making its /proc"))?.as_fd(), proc.as_fd())
        .map_err(at("mounting its /proc"))?;
    let settings = open_tree(CWD, "/sys", flags).map_err(at("copying /sys"))?;
    cover(settings.as_fd(), sys.as_fd()).map_err(at("mounting its /sys"))?;

    rustix::process::fchdir(&tree).map_err(at("entering it"))?;
    let plain = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(".", plain, "").map_err(at("forbidding programs and device nodes in it"))?;
    become_root().map_err(at("making it the root"))
}

/// The directory is the VM's user's alone; one that is a stranger's is not taken.
fn give(root: BorrowedFd<'_>, owner: Option<(u32, u32)>) -> Result<(), Failed> {
    let of = fstat(root).map_err(at("looking at the VM's directory"))?.st_uid;
    let Some((uid, gid)) = owner else { return Ok(()) };
    if of != 0 && of != uid {
        return Err(("the VM's directory is another user's", io::ErrorKind::PermissionDenied.into()));
    }
    fchown(root, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(at("giving the VM's directory away"))?;
    fchmod(root, OWN).map_err(at("closing the VM's directory to others"))
}

fn cover(what: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(what, "", place, "", by_descriptor)?)
}

fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A `/dev` with the nodes that a VM may need.
fn devices(owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let dev = file_system("tmpfs", &[("size", "64k"), ("mode", "755")], MountAttrFlags::empty())?;
    let net = made_below(dev.as_fd(), "net", ALL)?;
    for name in NODES {
        node(dev.as_fd(), name, &format!("/dev/{name}"), owner)?;
    }
    node(net.as_fd(), TUN, "/dev/net/tun", owner)?;
    Ok(dev)
}

fn node(folder: BorrowedFd<'_>, name: &str, of: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Ok(host) = stat(of) else { return Ok(()) };
    if FileType::from_raw_mode(host.st_mode) != FileType::CharacterDevice {
        return Ok(());
    }
    let device = makedev(rustix::fs::major(host.st_rdev), rustix::fs::minor(host.st_rdev));
    mknodat(folder, name, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device)?;
    let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid))).unzip();
    Ok(chownat(folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes the current directory the root, and lets go of the old one.
fn become_root() -> io::Result<()> {
    match rustix::process::pivot_root(".", ".") {
        // The old root now lies over the new one.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // An initramfs cannot be left, only hidden.
        Err(_) => {
            mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
    }
    Ok(rustix::process::chdir("/")?)
}
