//! System calls by name, with their number on each architecture that has them.
//!
//! The numbers are data and not `libc::SYS_*`, so that the tables of both architectures are built and tested on either.

use crate::arch::Arch;

/// A system call: its name and its number on x86-64 and on aarch64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    // First, so that two calls are told apart by one comparison.
    x86_64: u16,
    aarch64: Option<u16>,
    name: &'static str,
}

impl Call {
    /// Names the call as the manual pages do.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Gives the call's number, or nothing where the architecture never had it (aarch64 has no `open`).
    #[must_use]
    pub fn number(self, arch: Arch) -> Option<u16> {
        match arch {
            Arch::X86_64 => Some(self.x86_64),
            Arch::Aarch64 => self.aarch64,
        }
    }

    /// Finds the call that a line of the kernel's log names by number (`type=1326 … syscall=NR`).
    #[must_use]
    pub fn by_number(arch: Arch, number: u16) -> Option<Self> {
        ALL.iter().chain(X86_ONLY).copied().find(|call| call.number(arch) == Some(number))
    }
}

/// The name of a call from that of its number in `libc`.
const fn without_prefix(number_name: &'static str) -> &'static str {
    number_name.split_at("SYS_".len()).1
}

/// Declares calls as `NAME = SYS_name, x86-64[, aarch64];`.
macro_rules! calls {
    ($(#[$doc:meta])* $all:ident, $test:ident: $($id:ident = $sys:ident, $x86_64:literal $(, $aarch64:literal)?;)*) => {
        $(
            #[doc = concat!("`", stringify!($sys), "`.")]
            pub const $id: Call = Call {
                name: without_prefix(stringify!($sys)),
                x86_64: $x86_64,
                aarch64: calls!(@option $($aarch64)?),
            };
        )*

        $(#[$doc])*
        pub const $all: &[Call] = &[$($id),*];

        /// This build's numbers, to compare.
        #[cfg(test)]
        #[allow(unused_macros, reason = "aarch64 has no number for the calls of x86-64 alone")]
        macro_rules! $test {
            () => { &[$(($id, libc::$sys)),*] };
        }
    };
    (@option) => { None };
    (@option $number:literal) => { Some($number) };
}

// Numbers from asm/unistd_64.h (x86-64) and asm-generic/unistd.h (aarch64) of Linux 6.12.
calls! {
    /// Every call that a table or a test names and both architectures have.
    ALL, numbers_of_all:
    ACCEPT4 = SYS_accept4, 288, 242;
    ACCT = SYS_acct, 163, 89;
    ADD_KEY = SYS_add_key, 248, 217;
    ADJTIMEX = SYS_adjtimex, 159, 171;
    BIND = SYS_bind, 49, 200;
    BPF = SYS_bpf, 321, 280;
    BRK = SYS_brk, 12, 214;
    CAPSET = SYS_capset, 126, 91;
    CHROOT = SYS_chroot, 161, 51;
    CLOCK_ADJTIME = SYS_clock_adjtime, 305, 266;
    CLOCK_GETTIME = SYS_clock_gettime, 228, 113;
    CLOCK_NANOSLEEP = SYS_clock_nanosleep, 230, 115;
    CLOCK_SETTIME = SYS_clock_settime, 227, 112;
    CLONE = SYS_clone, 56, 220;
    CLONE3 = SYS_clone3, 435, 435;
    CLOSE = SYS_close, 3, 57;
    CONNECT = SYS_connect, 42, 203;
    DELETE_MODULE = SYS_delete_module, 176, 106;
    DUP = SYS_dup, 32, 23;
    EPOLL_CREATE1 = SYS_epoll_create1, 291, 20;
    EPOLL_CTL = SYS_epoll_ctl, 233, 21;
    EPOLL_PWAIT = SYS_epoll_pwait, 281, 22;
    EVENTFD2 = SYS_eventfd2, 290, 19;
    EXECVE = SYS_execve, 59, 221;
    EXECVEAT = SYS_execveat, 322, 281;
    EXIT = SYS_exit, 60, 93;
    EXIT_GROUP = SYS_exit_group, 231, 94;
    FALLOCATE = SYS_fallocate, 285, 47;
    FANOTIFY_INIT = SYS_fanotify_init, 300, 262;
    FCNTL = SYS_fcntl, 72, 25;
    FDATASYNC = SYS_fdatasync, 75, 83;
    FINIT_MODULE = SYS_finit_module, 313, 273;
    FSCONFIG = SYS_fsconfig, 431, 431;
    FSMOUNT = SYS_fsmount, 432, 432;
    FSOPEN = SYS_fsopen, 430, 430;
    FSPICK = SYS_fspick, 433, 433;
    FSTAT = SYS_fstat, 5, 80;
    FSYNC = SYS_fsync, 74, 82;
    FTRUNCATE = SYS_ftruncate, 77, 46;
    FUTEX = SYS_futex, 202, 98;
    GETPID = SYS_getpid, 39, 172;
    GETRANDOM = SYS_getrandom, 318, 278;
    GETSOCKOPT = SYS_getsockopt, 55, 209;
    GETTID = SYS_gettid, 186, 178;
    INIT_MODULE = SYS_init_module, 175, 105;
    IO_URING_ENTER = SYS_io_uring_enter, 426, 426;
    IO_URING_REGISTER = SYS_io_uring_register, 427, 427;
    IO_URING_SETUP = SYS_io_uring_setup, 425, 425;
    IOCTL = SYS_ioctl, 16, 29;
    KCMP = SYS_kcmp, 312, 272;
    KEXEC_FILE_LOAD = SYS_kexec_file_load, 320, 294;
    KEXEC_LOAD = SYS_kexec_load, 246, 104;
    KEYCTL = SYS_keyctl, 250, 219;
    KILL = SYS_kill, 62, 129;
    LANDLOCK_RESTRICT_SELF = SYS_landlock_restrict_self, 446, 446;
    LSEEK = SYS_lseek, 8, 62;
    MADVISE = SYS_madvise, 28, 233;
    MEMBARRIER = SYS_membarrier, 324, 283;
    MEMFD_CREATE = SYS_memfd_create, 319, 279;
    MMAP = SYS_mmap, 9, 222;
    MOUNT = SYS_mount, 165, 40;
    MOUNT_SETATTR = SYS_mount_setattr, 442, 442;
    MOVE_MOUNT = SYS_move_mount, 429, 429;
    MPROTECT = SYS_mprotect, 10, 226;
    MREMAP = SYS_mremap, 25, 216;
    MUNMAP = SYS_munmap, 11, 215;
    NANOSLEEP = SYS_nanosleep, 35, 101;
    NEWFSTATAT = SYS_newfstatat, 262, 79;
    OPEN_BY_HANDLE_AT = SYS_open_by_handle_at, 304, 265;
    OPEN_TREE = SYS_open_tree, 428, 428;
    OPENAT = SYS_openat, 257, 56;
    OPENAT2 = SYS_openat2, 437, 437;
    PERF_EVENT_OPEN = SYS_perf_event_open, 298, 241;
    PERSONALITY = SYS_personality, 135, 92;
    PIDFD_GETFD = SYS_pidfd_getfd, 438, 438;
    PIDFD_OPEN = SYS_pidfd_open, 434, 434;
    PIDFD_SEND_SIGNAL = SYS_pidfd_send_signal, 424, 424;
    PIVOT_ROOT = SYS_pivot_root, 155, 41;
    PKEY_MPROTECT = SYS_pkey_mprotect, 329, 288;
    PPOLL = SYS_ppoll, 271, 73;
    PRCTL = SYS_prctl, 157, 167;
    PREAD64 = SYS_pread64, 17, 67;
    PREADV = SYS_preadv, 295, 69;
    PROCESS_MADVISE = SYS_process_madvise, 440, 440;
    PROCESS_VM_READV = SYS_process_vm_readv, 310, 270;
    PROCESS_VM_WRITEV = SYS_process_vm_writev, 311, 271;
    PTRACE = SYS_ptrace, 101, 117;
    PWRITE64 = SYS_pwrite64, 18, 68;
    PWRITEV = SYS_pwritev, 296, 70;
    QUOTACTL = SYS_quotactl, 179, 60;
    READ = SYS_read, 0, 63;
    READV = SYS_readv, 19, 65;
    REBOOT = SYS_reboot, 169, 142;
    RECVFROM = SYS_recvfrom, 45, 207;
    RECVMSG = SYS_recvmsg, 47, 212;
    REQUEST_KEY = SYS_request_key, 249, 218;
    RESTART_SYSCALL = SYS_restart_syscall, 219, 128;
    RSEQ = SYS_rseq, 334, 293;
    RT_SIGACTION = SYS_rt_sigaction, 13, 134;
    RT_SIGPROCMASK = SYS_rt_sigprocmask, 14, 135;
    RT_SIGRETURN = SYS_rt_sigreturn, 15, 139;
    RT_TGSIGQUEUEINFO = SYS_rt_tgsigqueueinfo, 297, 240;
    SCHED_GETAFFINITY = SYS_sched_getaffinity, 204, 123;
    SCHED_YIELD = SYS_sched_yield, 24, 124;
    SECCOMP = SYS_seccomp, 317, 277;
    SENDMSG = SYS_sendmsg, 46, 211;
    SENDFILE = SYS_sendfile, 40, 71;
    SENDTO = SYS_sendto, 44, 206;
    SET_ROBUST_LIST = SYS_set_robust_list, 273, 99;
    SETDOMAINNAME = SYS_setdomainname, 171, 162;
    SETHOSTNAME = SYS_sethostname, 170, 161;
    SETNS = SYS_setns, 308, 268;
    SETSOCKOPT = SYS_setsockopt, 54, 208;
    SETTIMEOFDAY = SYS_settimeofday, 164, 170;
    SETUID = SYS_setuid, 105, 146;
    SHMAT = SYS_shmat, 30, 196;
    SHUTDOWN = SYS_shutdown, 48, 210;
    SIGALTSTACK = SYS_sigaltstack, 131, 132;
    SIGNALFD4 = SYS_signalfd4, 289, 74;
    SOCKET = SYS_socket, 41, 198;
    SOCKETPAIR = SYS_socketpair, 53, 199;
    STATX = SYS_statx, 332, 291;
    SWAPOFF = SYS_swapoff, 168, 225;
    SWAPON = SYS_swapon, 167, 224;
    SYSLOG = SYS_syslog, 103, 116;
    TGKILL = SYS_tgkill, 234, 131;
    TIMERFD_CREATE = SYS_timerfd_create, 283, 85;
    TIMERFD_SETTIME = SYS_timerfd_settime, 286, 86;
    TKILL = SYS_tkill, 200, 130;
    UMOUNT2 = SYS_umount2, 166, 39;
    UNLINKAT = SYS_unlinkat, 263, 35;
    UNSHARE = SYS_unshare, 272, 97;
    USERFAULTFD = SYS_userfaultfd, 323, 282;
    VHANGUP = SYS_vhangup, 153, 58;
    WAITID = SYS_waitid, 247, 95;
    WRITE = SYS_write, 1, 64;
    WRITEV = SYS_writev, 20, 66;
}

calls! {
    /// Calls that x86-64 alone has.
    X86_ONLY, numbers_of_x86_only:
    EPOLL_WAIT = SYS_epoll_wait, 232;
    FORK = SYS_fork, 57;
    IOPERM = SYS_ioperm, 173;
    IOPL = SYS_iopl, 172;
    MODIFY_LDT = SYS_modify_ldt, 154;
    OPEN = SYS_open, 2;
    POLL = SYS_poll, 7;
    VFORK = SYS_vfork, 58;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_equal_those_of_this_builds_libc() {
        let ours: &[(Call, libc::c_long)] = numbers_of_all!();
        for (call, number) in ours {
            assert_eq!(call.number(Arch::NATIVE).map(libc::c_long::from), Some(*number), "{}", call.name());
        }
        #[cfg(target_arch = "x86_64")]
        for (call, number) in numbers_of_x86_only!() as &[(Call, libc::c_long)] {
            assert_eq!(call.number(Arch::NATIVE).map(libc::c_long::from), Some(*number), "{}", call.name());
        }
    }

    #[test]
    fn a_number_of_the_kernel_log_is_named() {
        assert_eq!(Call::by_number(Arch::Aarch64, 56), Some(OPENAT));
        assert_eq!(Call::by_number(Arch::X86_64, 2), Some(OPEN));
        assert_eq!(Call::by_number(Arch::Aarch64, 9999), None);
    }
}
