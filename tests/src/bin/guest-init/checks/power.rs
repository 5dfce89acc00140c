//! The power button: `gpio-keys` as an input device where the kernel has it, the GPIO line itself where it has not
//! (Debian's cloud kernels leave `gpio-keys` out).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use serde_json::{Value, json};

use super::{Seen, names, read};
use crate::say;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// The line of the PL061 that the device tree's `gpio-keys` node names.
const LINE: u32 = 3;

/// Says `ready power`, blocks until the button is pressed, and tells by which way that was seen.
pub fn wait_for_button() -> Seen {
    match input_device() {
        Some(path) => wait_for_key(&path),
        None => wait_for_edge("/dev/gpiochip0"),
    }
}

fn input_device() -> Option<String> {
    let is_button = |name: &String| {
        let device = read(&format!("/sys/class/input/{name}/device/name"));
        name.starts_with("event") && device.is_ok_and(|d| d.contains("gpio"))
    };
    names("/sys/class/input").into_iter().find(is_button).map(|name| format!("/dev/input/{name}"))
}

fn wait_for_key(path: &str) -> Seen {
    let mut events = File::open(path).map_err(|e| format!("{path}: {e}"))?;
    say(&format!("ready power {}", json!({"source": path})));
    // struct input_event: two 64-bit words of time, type and code of 16 bits, a value of 32.
    let mut event = [0_u8; 24];
    loop {
        events.read_exact(&mut event).map_err(|e| format!("{path}: {e}"))?;
        let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        if (half(16), half(18), half(20)) == (EV_KEY, KEY_POWER, 1) {
            return Ok(json!({"source": path}));
        }
    }
}

/// `struct gpioevent_request` of linux/gpio.h.
#[repr(C)]
struct EventRequest {
    line: u32,
    handle_flags: u32,
    event_flags: u32,
    label: [u8; 32],
    fd: i32,
}

/// `GPIO_GET_LINEEVENT_IOCTL`: _IOWR(0xB4, 4, struct gpioevent_request).
const GET_LINE_EVENT: libc::c_ulong = 0xc030_b404;
const HANDLE_INPUT: u32 = 1;
const RISING_EDGE: u32 = 1;

fn wait_for_edge(path: &str) -> Seen {
    let chip = File::open(path).map_err(|e| format!("{path}: {e}"))?;
    let mut request = EventRequest {
        line: LINE,
        handle_flags: HANDLE_INPUT,
        event_flags: RISING_EDGE,
        label: [0; 32],
        fd: -1,
    };
    // SAFETY: the ioctl reads and writes one EventRequest, which lives here.
    let result = unsafe { libc::ioctl(chip.as_raw_fd(), GET_LINE_EVENT as _, &raw mut request) };
    if result < 0 {
        return Err(format!("{path} line {LINE}: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the ioctl returned a new descriptor that nobody else owns.
    let mut events = unsafe { File::from_raw_fd(request.fd) };
    let source = json!({"source": format!("{path} line {LINE}")});
    say(&format!("ready power {source}"));
    // struct gpioevent_data: a 64-bit time and a 32-bit id, padded.
    let mut event = [0_u8; 16];
    events.read_exact(&mut event).map_err(|e| format!("{path} line {LINE}: {e}"))?;
    Ok::<Value, String>(source)
}
