//! With root, a device process also leaves the host's namespaces, its file tree and its user.
//!
//! | leaves | for | what it is for where seccomp is off and landlock is old |
//! |---|---|---|
//! | network, IPC, UTS, cgroup namespaces | fresh ones | no interface, not even abstract sockets; no shared memory of others |
//! | process ids | a namespace in which it is the only one | no other process can be named |
//! | the file tree | an empty one, read-only, that nothing else sees | no path, on kernels without landlock too |
//! | root | user and group 65534, no groups | the kernel's own checks hold it like any stranger |
//! | the user namespace | one in which nobody has a number | no user can be become; what rights the user has on the host end here |
//!
//! Each step is tried by itself, and what was achieved is reported: a container may have root and still not be allowed to.
//! Without root nothing of this happens; landlock and seccomp are the jail. The machine stays what it was started as: its
//! death signal must reach control, which the kernel allows among the same user only. The PID namespace is made by whoever
//! starts the process ([`crate::Spawn::alone`]).
//!
//! The order is the kernel's: who has changed its root by chroot may make no user namespace, and who has given up root may
//! not chroot but in a user namespace of its own.

use std::io;

use rustix::process::{Signal, getppid};

use crate::sys;

/// The user and group that owns nothing, as Linux numbers it.
const NOBODY: u32 = 65534;

/// Leaves what can be left; names it.
///
/// # Errors
/// Where a step left the process between two states, or its parent died meanwhile.
pub(crate) fn leave() -> io::Result<Vec<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let namespaces = [
        ("network", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ];
    let mut left: Vec<&str> = namespaces
        .into_iter()
        .filter(|&(_, flag)| sys::unshare(flag).is_ok())
        .map(|(name, _)| name)
        .collect();
    if std::process::id() == 1 {
        left.push("pid");
    }
    let mut tree = None;
    if sys::unshare(libc::CLONE_NEWNS).is_ok() {
        left.push("mount");
        tree = empty_root().ok();
    }
    if become_nobody()? {
        left.push("root");
        if sys::unshare(libc::CLONE_NEWUSER).is_ok() {
            left.push("user");
        }
    }
    let gone = match tree {
        Some(Tree::Left) => true,
        Some(Tree::Behind) => rustix::process::chroot(".").is_ok(),
        None => false,
    };
    if gone {
        rustix::process::chdir("/")?;
        left.push("files");
    }
    Ok(left)
}

/// Where the host's file tree is.
enum Tree {
    /// Nowhere.
    Left,
    /// Above the current directory, which is the empty one: an initramfs cannot be left, only hidden.
    Behind,
}

/// Makes an empty, read-only file system the root of this namespace, and lets go of the old one.
fn empty_root() -> io::Result<Tree> {
    sys::make_mounts_private()?;
    // Any folder will do to mount it on, and this one exists wherever we run.
    sys::mount_empty(c"/proc")?;
    rustix::process::chdir("/proc")?;
    match rustix::process::pivot_root(".", ".") {
        // The old root now lies over the new one.
        Ok(()) => sys::unmount(c".").map(|()| Tree::Left),
        Err(_) => Ok(Tree::Behind),
    }
}

/// Gives up root; false where that is not allowed.
fn become_nobody() -> io::Result<bool> {
    // A change of user clears the death signal, so it is asked for again; a parent that died in between is noticed. In a
    // PID namespace of its own a process knows no parent; there the sockets of a parent that died tell.
    let death_signal = rustix::process::parent_process_death_signal()?;
    let parent = getppid();
    if sys::set_user(NOBODY, NOBODY).is_err() {
        return Ok(false);
    }
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    rustix::process::set_parent_process_death_signal(death_signal)?;
    let orphan = getppid() != parent;
    if orphan && death_signal == Some(Signal::KILL) {
        return Err(io::Error::other("the parent has died"));
    }
    Ok(true)
}
