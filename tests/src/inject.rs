//! Makes a thread of another process try a system call, to see what its jail says.
//!
//! The thread is stopped by ptrace where it stands, made to run `svc` with other registers, and left stopped; the
//! process is of no use afterwards. So the attempt comes from inside the real jail at the real time.

use std::fs;
use std::io;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel killed the process by this signal; 31 is SIGSYS, a seccomp filter's.
    Killed(i32),
    /// The call returned an error.
    Refused(i32),
    /// The call succeeded.
    Allowed(i64),
}

impl Verdict {
    /// True unless the call did what it was asked for.
    pub fn is_refusal(self) -> bool {
        !matches!(self, Self::Allowed(_))
    }
}

/// A system call to try: number and arguments. A text argument is put on the thread's stack, below its red zone.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What a failure's message calls it.
    pub name: &'static str,
    /// The number on arm64.
    pub number: u64,
    /// Up to six arguments.
    pub args: [u64; 6],
    /// Index of the argument that points to this text.
    pub text: Option<(usize, &'static str)>,
}

/// Lets thread `tid` of a process try the call.
///
/// # Errors
/// If the thread cannot be traced.
pub fn attempt(tid: i32, call: &Attempt) -> io::Result<Verdict> {
    sys::seize(tid)?;
    let memory = fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{tid}/mem"))?;
    if svc_near(&memory, sys::registers(tid)?.pc).is_err() {
        // Between two calls: a vCPU's thread that handles what its guest did.
        sys::skip_next_call(tid)?;
    }
    let mut registers = sys::registers(tid)?;
    registers.x[..6].copy_from_slice(&call.args);
    if let Some((index, text)) = call.text {
        let place = registers.sp - 4096;
        let bytes = [text.as_bytes(), &[0]].concat();
        std::os::unix::fs::FileExt::write_all_at(&memory, &bytes, place)?;
        registers.x[index] = place;
    }
    registers.x[8] = call.number;
    registers.pc = svc_near(&memory, registers.pc)?;
    sys::set_registers(tid, &registers)?;
    sys::forget_system_call(tid)?;
    sys::run_one_call(tid)
}

/// The `svc #0` that the thread stands at or has just run: it is blocked in a system call.
fn svc_near(memory: &fs::File, pc: u64) -> io::Result<u64> {
    const SVC: [u8; 4] = 0xd400_0001_u32.to_le_bytes();
    for place in [pc, pc - 4] {
        let mut word = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(memory, &mut word, place)?;
        if word == SVC {
            return Ok(place);
        }
    }
    Err(io::Error::other(format!("the thread at {pc:#x} is not in a system call")))
}

/// `struct user_pt_regs` of arm64.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Registers {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

mod sys {
    //! The ptrace calls.

    use std::io;

    use super::{Registers, Verdict};

    const NT_PRSTATUS: usize = 1;
    const NT_ARM_SYSTEM_CALL: usize = 0x404;

    pub fn seize(tid: i32) -> io::Result<()> {
        // A thread's death takes its tracees along: none of them outlives the test.
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        // SAFETY: these requests take numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize) })?;
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) })?;
        match wait(tid)? {
            status if libc::WIFSTOPPED(status) => Ok(()),
            status => Err(io::Error::other(format!("the thread did not stop: {status:#x}"))),
        }
    }

    pub fn registers(tid: i32) -> io::Result<Registers> {
        let mut registers = Registers::default();
        let mut iov = libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
        // SAFETY: the kernel writes at most `iov_len` bytes to `registers`, which has that many.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &raw mut iov) })?;
        Ok(registers)
    }

    pub fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
        let mut copy = *registers;
        let mut iov = libc::iovec { iov_base: (&raw mut copy).cast(), iov_len: size_of::<Registers>() };
        // SAFETY: the kernel reads `iov_len` bytes of `copy`, which has that many.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &raw mut iov) })
    }

    /// Tells the kernel that no call is to be restarted.
    pub fn forget_system_call(tid: i32) -> io::Result<()> {
        let mut none = -1_i32;
        let mut iov = libc::iovec { iov_base: (&raw mut none).cast(), iov_len: size_of::<i32>() };
        // SAFETY: the kernel reads four bytes of `none`.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &raw mut iov) })
    }

    /// Runs to the next call that the thread makes by itself, which is not carried out, and behind it.
    pub fn skip_next_call(tid: i32) -> io::Result<()> {
        run_to_call_stop(tid)?;
        forget_system_call(tid)?;
        run_to_call_stop(tid)
    }

    fn run_to_call_stop(tid: i32) -> io::Result<()> {
        loop {
            // SAFETY: this request takes numbers only.
            check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0, 0) })?;
            let status = wait(tid)?;
            if !libc::WIFSTOPPED(status) {
                return Err(io::Error::other("the thread ended by itself"));
            }
            if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
                return Ok(());
            }
        }
    }

    /// Runs to the call's entry and on to its end.
    pub fn run_one_call(tid: i32) -> io::Result<Verdict> {
        let mut stops = 0;
        loop {
            // SAFETY: this request takes numbers only.
            check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0, 0) })?;
            let status = wait(tid)?;
            if libc::WIFSIGNALED(status) {
                return Ok(Verdict::Killed(libc::WTERMSIG(status)));
            }
            if libc::WIFEXITED(status) {
                return Err(io::Error::other("the thread ended by itself"));
            }
            // TRACESYSGOOD marks stops at a call by bit 7; a signal such as SIGSYS stops the thread too.
            match libc::WSTOPSIG(status) {
                signal if signal == libc::SIGTRAP | 0x80 => stops += 1,
                libc::SIGSYS => return Ok(Verdict::Killed(libc::SIGSYS)),
                _ => {}
            }
            if stops == 2 {
                return verdict(tid);
            }
        }
    }

    /// At the call's end. A filter's SIGSYS comes after it, when the thread takes one more step.
    fn verdict(tid: i32) -> io::Result<Verdict> {
        let result = registers(tid)?.x[0].cast_signed();
        // SAFETY: this request takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, tid, 0, 0) })?;
        let status = wait(tid)?;
        if libc::WIFSIGNALED(status) {
            return Ok(Verdict::Killed(libc::WTERMSIG(status)));
        }
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSYS {
            return Ok(Verdict::Killed(libc::SIGSYS));
        }
        let error = (-4095..0).contains(&result);
        Ok(if error { Verdict::Refused((-result) as i32) } else { Verdict::Allowed(result) })
    }

    fn wait(tid: i32) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: waitpid writes one integer to `status`.
        match unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(status),
        }
    }

    fn check(result: libc::c_long) -> io::Result<()> {
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
#[cfg(target_arch = "aarch64")]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    const OPENAT: u64 = 56;
    const HERE: u64 = (-100_i64).cast_unsigned();

    /// A process without a jail that is blocked in a system call: it reads a pipe that stays empty.
    fn blocked() -> Child {
        let mut child = Command::new("/bin/busybox").arg("cat").stdin(Stdio::piped()).spawn().unwrap();
        let place = format!("/proc/{}/wchan", child.id());
        let asleep = || std::fs::read_to_string(&place).is_ok_and(|w| w.contains("pipe_read")).then_some(());
        if crate::wait::until(crate::wait::SHORT, asleep).is_none() {
            child.kill().unwrap();
            panic!("cat does not read");
        }
        child
    }

    fn open(path: &'static str) -> Verdict {
        let mut child = blocked();
        let call =
            Attempt { name: "open", number: OPENAT, args: [HERE, 0, 0, 0, 0, 0], text: Some((1, path)) };
        let verdict = attempt(child.id() as i32, &call).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        verdict
    }

    #[test]
    fn a_process_without_a_jail_opens_a_file() {
        assert!(
            matches!(open("/proc/self/status"), Verdict::Allowed(3..)),
            "{:?}",
            open("/proc/self/status")
        );
    }

    #[test]
    fn what_the_kernel_says_is_told() {
        assert_eq!(open("/no/such/file"), Verdict::Refused(libc::ENOENT));
    }
}
