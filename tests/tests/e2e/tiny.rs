//! A guest of some sixty instructions: it boots at once, and fills little memory. Tags and data are in 2,048 granules at
//! RAM + 6 MiB, of four kinds: both, data alone, tags alone, one odd granule.
//!
//! Over the serial port it is asked by a letter, and answers a line: `v` looks at all of it, `w` writes all of it anew, in
//! another way each time, `k` loads through a wrong tag.

use std::arch::global_asm;
use std::fs;

use granule_tests::console::Console;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use serde_json::{Value, json};

use crate::serial::join;

global_asm!(
    ".arch_extension memtag",
    ".pushsection .rodata.tiny_guest, \"a\"",
    ".balign 4096",
    ".global tiny_guest",
    "tiny_guest:",
    // The header of an Image.
    "b 1f",
    ".word 0",
    ".quad 0, tiny_guest_end - tiny_guest, 0xa, 0, 0, 0",
    ".ascii \"ARM\\x64\"",
    ".word 0",
    ".balign 2048",
    "2: .rept 16",
    ".balign 128",
    "b 80f",
    ".endr",
    // 1 GiB of devices, 1 GiB of tagged memory; synchronous tag checks.
    "1: adr x0, 90f",
    "mov x1, #0x705",
    "movz x2, #0x0701",
    "movk x2, #0x4000, lsl #16",
    "stp x1, x2, [x0]",
    "mov x3, #0xf0",
    "msr mair_el1, x3",
    "movz x3, #0x3520",
    "movk x3, #0x80, lsl #16",
    "movk x3, #0x22, lsl #32",
    "msr tcr_el1, x3",
    "msr ttbr0_el1, x0",
    "adr x3, 2b",
    "msr vbar_el1, x3",
    "tlbi vmalle1",
    "dsb sy",
    "isb",
    "movz x3, #0x1805",
    "movk x3, #0x30d0, lsl #16",
    "movk x3, #0x900, lsl #32",
    "msr sctlr_el1, x3",
    "isb",
    "movz x20, #0x0900, lsl #16",
    // Bytes come to a port that is on and whose interrupt is wanted, which never reaches the vCPU: it masks all.
    "mov w0, #0x10",
    "str w0, [x20, #0x38]",
    "mov w0, #0x301",
    "str w0, [x20, #0x30]",
    "movz x21, #0x4060, lsl #16",
    "mov x23, #0",
    "mov x24, #0",
    // w: x23 is the way.
    "30: add x23, x23, #1",
    "mov x22, #0",
    "31: bl 60f",
    "stg x5, [x5]",
    "str x2, [x5]",
    "add x22, x22, #1",
    "cmp x22, #2048",
    "b.lo 31b",
    "adr x10, 91f",
    "40: bl 70f",
    // Waits for a letter.
    "41: mov x0, #20000",
    "42: subs x0, x0, #1",
    "b.ne 42b",
    "ldr w0, [x20, #0x18]",
    "tbnz w0, #4, 41b",
    "ldr w0, [x20]",
    "and w0, w0, #0xff",
    "cmp w0, #'w'",
    "b.eq 30b",
    "cmp w0, #'k'",
    "b.eq 50f",
    "cmp w0, #'v'",
    "b.ne 41b",
    "mov x22, #0",
    "43: bl 60f",
    "mov x6, x5",
    "ldg x6, [x6]",
    "cmp x6, x5",
    "b.ne 44f",
    "ldr x7, [x5]",
    "cmp x7, x2",
    "b.ne 44f",
    "add x22, x22, #1",
    "cmp x22, #2048",
    "b.lo 43b",
    "adr x10, 92f",
    "b 40b",
    "44: adr x10, 93f",
    "b 40b",
    // k: one exception is expected.
    "50: mov x22, #1",
    "bl 60f",
    "eor x5, x5, #1 << 56",
    "mov x24, #1",
    "ldr x7, [x5]",
    "adr x10, 94f",
    "cbz x24, 40b",
    "adr x10, 93f",
    "b 40b",
    // Granule x22: its tag to x1, its data to x2, the pointer to it to x5.
    "60: lsr x0, x22, #8",
    "and x0, x0, #3",
    "mov x1, #0",
    "mov x2, #0",
    "cbz x0, 61f",
    "cmp x0, #1",
    "b.eq 62f",
    "cmp x0, #2",
    "b.eq 63f",
    "and x3, x22, #255",
    "cmp x3, #77",
    "mov x4, #9",
    "csel x1, x4, xzr, eq",
    "b 64f",
    "63: and x1, x22, #15",
    "b 64f",
    "61: mov x3, #7",
    "madd x1, x22, x3, x23",
    "and x1, x1, #15",
    "62: movz x3, #0x79b9",
    "madd x2, x22, x3, x23",
    "64: add x5, x21, x22, lsl #4",
    "orr x5, x5, x1, lsl #56",
    "ret",
    // Writes the text at x10.
    "70: ldrb w11, [x10], #1",
    "cbz w11, 71f",
    "str w11, [x20]",
    "b 70b",
    "71: ret",
    "80: mrs x0, esr_el1",
    "and x0, x0, #0x3f",
    "cmp x0, #0x11",
    "b.ne 81f",
    "cbz x24, 81f",
    "mov x24, #0",
    "mrs x0, elr_el1",
    "add x0, x0, #4",
    "msr elr_el1, x0",
    "eret",
    "81: adr x10, 95f",
    "bl 70b",
    "82: b 82b",
    "91: .asciz \"TINY written\\n\"",
    "92: .asciz \"TINY right\\n\"",
    "93: .asciz \"TINY wrong\\n\"",
    "94: .asciz \"TINY caught\\n\"",
    "95: .asciz \"TINY fault\\n\"",
    ".balign 4096",
    "90: .fill 4096, 1, 0",
    ".global tiny_guest_end",
    "tiny_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    static tiny_guest: u8;
    static tiny_guest_end: u8;
}

fn image() -> &'static [u8] {
    let (start, end) = (&raw const tiny_guest, &raw const tiny_guest_end);
    // SAFETY: both are labels in one read-only section, this one behind that one, with nothing but bytes between them.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// A VM of it; what it needs, and its serial port's socket, come to the monitor's folder.
pub fn guest(folder: &Folder) -> Value {
    fs::write(folder.file("kernel"), image()).unwrap();
    json!({
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "features": {"mte": true}},
        "memory": {"size": 8 * MIB},
        "payload": {"kernel": folder.file("kernel")},
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Socket", "socket": folder.file("serial.sock")},
        "console": {"mode": "Off"},
    })
}

/// A guest that has written its memory.
pub fn boot() -> (Vm, Session) {
    let monitor = Monitor::start();
    let created = monitor.send("vm.create", &guest(monitor.folder()));
    assert_eq!(created.code, 204, "{created:?}");
    monitor.must("vm.boot");
    let console = Console::new(monitor.folder().path().join("console"));
    let vm = Vm { monitor, console };
    let mut session = join(&vm);
    is_right(&mut session);
    (vm, session)
}

fn answers(session: &mut Session, letter: &str, answer: &str) {
    session.say(letter);
    // What it said of itself may come first.
    let said = session.line("TINY ");
    let said = if said == "written" && answer != "written" { session.line("TINY ") } else { said };
    assert_eq!(said, answer, "{letter}: {}", session.text());
}

/// Every granule has its data and its tag.
pub fn is_right(session: &mut Session) {
    answers(session, "v", "right");
}

/// Has it write all of it anew.
pub fn writes(session: &mut Session) {
    answers(session, "w", "written");
}

/// A wrong tag is caught.
pub fn catches(session: &mut Session) {
    answers(session, "k", "caught");
}
