//! Programs that are meant to die of a tag check fault, each run as a process of its own.
//!
//! A victim prints `si_code=N` from its SIGSEGV handler and then dies of the same signal. One that gets away
//! with it prints `survived` and ends with status 0.

use std::hint::black_box;
use std::process::exit;

use crate::tags::{Backing, TaggedMemory, check_synchronously, with_tag};

/// Kinds that touch `PROT_MTE` memory with the wrong tag.
pub const WRONG_TAG: [&str; 3] = ["wrong-load", "wrong-store", "wrong-shared-store"];
/// Kinds that break the C library's heap; they die only under `GLIBC_TUNABLES=glibc.mem.tagging=3`.
pub const HEAP: [&str; 4] = ["heap-overflow", "heap-underflow", "heap-overread", "heap-use-after-free"];

/// Plays the victim.
pub fn run(kind: &str) -> ! {
    tell_code_on_segv();
    match kind {
        "wrong-load" => wrong_tag(Backing::Anonymous, |memory, pointer| {
            let _ = black_box(memory.load(pointer));
        }),
        "wrong-store" => wrong_tag(Backing::Anonymous, |memory, pointer| memory.store(pointer, 1)),
        "wrong-shared-store" => wrong_tag(Backing::Shared, |memory, pointer| memory.store(pointer, 1)),
        kind if HEAP.contains(&kind) => break_heap(kind),
        _ => {
            eprintln!("no victim of this name: {kind}");
            exit(2);
        }
    }
    println!("survived");
    exit(0);
}

fn wrong_tag(backing: Backing, touch: impl Fn(&TaggedMemory, usize)) {
    let ready = check_synchronously(0xffff).and_then(|()| TaggedMemory::map(backing, 4096));
    let memory = match ready {
        Ok(memory) => memory,
        Err(error) => {
            eprintln!("no tagged memory: {error}");
            exit(3);
        }
    };
    let pointer = memory.set_tag(7, 5);
    memory.store(pointer, 42);
    assert_eq!(memory.load(pointer), 42, "the right tag reads what it wrote");
    touch(&memory, with_tag(pointer, 6));
}

/// Asks malloc for 32 bytes, two granules, and touches what lies outside of them.
fn break_heap(kind: &str) {
    // SAFETY: none is meant: this process exists to make these very mistakes, through volatile accesses that the
    // compiler keeps, on a heap that nobody else uses, and ends right after.
    unsafe {
        let block: *mut u8 = black_box(libc::malloc(32).cast());
        block.write_bytes(0xaa, 32);
        match kind {
            "heap-overflow" => block.add(32).write_volatile(1),
            "heap-underflow" => block.sub(1).write_volatile(1),
            "heap-overread" => _ = black_box(block.add(40).read_volatile()),
            _ => {
                libc::free(block.cast());
                _ = black_box(block.add(16).read_volatile());
            }
        }
    }
}

extern "C" fn on_segv(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands SA_SIGINFO handlers a valid siginfo.
    let code = unsafe { (*info).si_code };
    let mut line = *b"si_code=  \n";
    line[8] = b'0' + (code / 10 % 10) as u8;
    line[9] = b'0' + (code % 10) as u8;
    // SAFETY: write(2) and signal(2) are async-signal-safe; the next fault kills the process with this signal.
    unsafe {
        libc::write(1, line.as_ptr().cast(), line.len());
        libc::signal(signal, libc::SIG_DFL);
    }
}

fn tell_code_on_segv() {
    // SAFETY: an all-zero sigaction is a valid one; the handler uses only async-signal-safe calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_segv as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
    }
}
