//! The few prctl-like calls that no crate wraps.

use std::ffi::CStr;
use std::io;

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `prctl` with one number as argument.
pub(crate) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option this crate passes takes numbers, no pointers.
    done(unsafe { libc::prctl(option, argument, zero, zero, zero) })
}

/// Whether READ_IMPLIES_EXEC, under which PROT_READ mappings are executable, is set.
pub(crate) fn reads_imply_exec() -> bool {
    // SAFETY: 0xffff_ffff asks and changes nothing.
    let persona = unsafe { libc::personality(0xffff_ffff) };
    persona & libc::READ_IMPLIES_EXEC != 0
}

/// Goes back to Linux's plain personality.
pub(crate) fn plain_personality() -> io::Result<()> {
    // SAFETY: PER_LINUX (0) is always a valid personality.
    let previous = unsafe { libc::personality(0) };
    if previous == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's landlock ABI, 0 where there is none.
pub(crate) fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: libc::c_int = 1;
    let no_attributes: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the kernel wants a null pointer and size 0, and answers a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, no_attributes, 0usize, CREATE_RULESET_VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether the calling process has one thread, asked without `/proc`.
pub(crate) fn single_threaded() -> bool {
    // SAFETY: for CLONE_THREAD alone the kernel changes nothing: it answers EINVAL if there are other threads.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Makes malloc serve all threads from one heap.
///
/// A heap per thread costs pages, and glibc opens `/proc/sys/vm/overcommit_memory` the first time one shrinks, which no
/// jail allows.
pub(crate) fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers. It answers 0 for an unknown parameter, which this is not.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Whether the kernel knows PR_SET_MDWE.
pub(crate) fn has_mdwe() -> bool {
    let zero: libc::c_ulong = 0;
    // SAFETY: asks and takes no pointer.
    unsafe { libc::prctl(libc::PR_GET_MDWE, zero, zero, zero, zero) >= 0 }
}

/// Gives up every capability, for good: `no_new_privs` is set, so no exec brings one back.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Leaves namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: of the flags this crate passes none unshares memory or descriptors.
    done(unsafe { libc::unshare(flags) })
}

/// Keeps what is mounted here from now on to this namespace.
pub(crate) fn make_mounts_private() -> io::Result<()> {
    let (flags, none) = (libc::MS_REC | libc::MS_PRIVATE, std::ptr::null());
    // SAFETY: the path is a C string; the other pointers may be null for a change of propagation.
    done(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) })
}

/// Mounts an empty, read-only file system.
pub(crate) fn mount_empty(on: &CStr) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (name, options) = (c"tmpfs".as_ptr(), c"nr_inodes=1,mode=555".as_ptr());
    // SAFETY: all are C strings.
    done(unsafe { libc::mount(name, on.as_ptr(), name, flags, options.cast()) })
}

/// Takes a file system out of the tree, at once for new users, later for old ones.
pub(crate) fn unmount(path: &CStr) -> io::Result<()> {
    // SAFETY: a C string.
    done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })
}

/// Changes user and group, real, effective and saved, of the whole process, and drops all other groups.
pub(crate) fn set_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: no groups, so the pointer is not read; the others take numbers.
    unsafe {
        done(libc::setgroups(0, std::ptr::null()))?;
        done(libc::setresgid(group, group, group))?;
        done(libc::setresuid(user, user, user))
    }
}
