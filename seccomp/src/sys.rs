//! The few prctl-like calls that no crate wraps.

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
///
/// Read from `/proc`: the call that asks is the call that sets, and a process started by control may not make it.
pub(crate) fn reads_imply_exec() -> bool {
    let persona = std::fs::read_to_string("/proc/self/personality").unwrap_or_default();
    let flag = u32::from_ne_bytes(libc::READ_IMPLIES_EXEC.to_ne_bytes());
    u32::from_str_radix(persona.trim(), 16).is_ok_and(|persona| persona & flag != 0)
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
