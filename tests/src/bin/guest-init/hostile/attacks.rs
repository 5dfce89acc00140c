//! What is done to a device. The classes are those of docs/threat-model.md.

use serde_json::json;

use super::device::{BAR_SIZE, Device, INDIRECT, NEXT, NOTIFY, Outcome, Queue, SIZE, WRITE, common};
use super::physical::PAGE;
use crate::checks::Seen;

/// Addresses where no ring and no buffer can be: nothing, the interrupt controller, the UART, PCI windows and ECAM, around the
/// ends of RAM (256 MiB from 1 GiB on), the top of the address space.
const NOWHERE: [u64; 12] = [
    0,
    0x0800_0000,
    0x0900_0000,
    0x1000_0000,
    0x3000_0000,
    0x3fff_fff0,
    0x4fff_fff0,
    0x5000_0000,
    0x40_0000_0000,
    0x8000_0000_0000,
    u64::MAX - 15,
    !0xfff,
];

/// Those that reach into RAM.
const NEAR_RAM: [u64; 2] = [0x3fff_fff0, 0x4fff_fff0];

/// A generator of nonsense, the same each time.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Carries out the attack of that name, and leaves the device reset.
pub fn carry_out(attack: &str, device: &Device) -> Seen {
    let seen = match attack {
        "late" => late(device),
        "places" => places(device),
        "chains" => chains(device),
        "rings" => rings(device),
        "registers" => registers(device),
        "notify" => notify(device),
        "in-flight" => in_flight(device),
        "read-only" => read_only(device),
        _ => Err(format!("no attack {attack}")),
    };
    device.reset()?;
    seen
}

/// Everything is changed that a driver may not change once it has said DRIVER_OK.
fn late(device: &Device) -> Seen {
    let queue = device.start()?;
    let watched = [
        common::QUEUE_SIZE,
        common::QUEUE_ENABLE,
        common::QUEUE_DESC,
        common::QUEUE_DRIVER,
        common::QUEUE_DEVICE,
        common::DRIVER_FEATURE,
    ];
    let before = watched.map(|register| device.get(register));
    let mut changed = Vec::new();
    for (register, was) in watched.into_iter().zip(before) {
        for value in [0, 1, 3, 0x7fff, 0x8000, 0xffff, 0xffff_ffff, u64::MAX].into_iter().chain(NOWHERE) {
            device.set(register, value);
            device.notify(0);
        }
        if device.get(register) != was {
            changed.push(register.0);
        }
    }
    // Queues that are not there, through every register of a queue.
    for select in [1_u64, 7, 255, 1023, 0x8000, 0xffff] {
        device.set(common::QUEUE_SELECT, select);
        for at in (common::QUEUE_SIZE.0..common::END).step_by(2) {
            let _ = device.bar.read(at, 2);
            device.bar.write(at, 2, 0xffff);
        }
    }
    device.set(common::QUEUE_SELECT, 0);
    drop(queue);
    Ok(json!({"changed": changed}))
}

/// Rings where none can be: each is refused when the driver says that it is up, or when the device looks.
fn places(device: &Device) -> Seen {
    let mut outcomes = [0; 3];
    for bad in NOWHERE {
        for which in 0..3 {
            device.greet()?;
            let queue =
                Queue { rings: super::physical::Page::new()?, buffers: super::physical::Page::new()? };
            let mut addresses = [0, 0x400, 0x800].map(|at| queue.rings.address() + at);
            addresses[which] = bad;
            device.start_at(addresses[0], addresses[1], addresses[2]);
            queue.describe(0, queue.buffer().0, 64, WRITE, 0);
            queue.offer(0, 0);
            device.notify(0);
            let refused = device.get(common::STATUS) & super::device::NEEDS_RESET != 0;
            outcomes[usize::from(!refused)] += 1;
            device.reset()?;
        }
    }
    Ok(json!({"refused": outcomes[0], "accepted": outcomes[1]}))
}

/// Chains that no driver makes: each is given back, or the device asks for a reset.
fn chains(device: &Device) -> Seen {
    type Descriptor = (u64, u32, u16, u16);
    let mut counts = [0; 3];
    let mut lost = Vec::new();
    let mut attempt = |name: String, chain: &dyn Fn(u64, u64) -> Vec<Descriptor>| -> Result<(), String> {
        let queue = device.start()?;
        let (first, _) = queue.buffer();
        for (index, (address, length, flags, next)) in (0..).zip(chain(queue.rings.address(), first)) {
            queue.describe(index, address, length, flags, next);
        }
        queue.offer(0, 0);
        device.notify(0);
        let outcome = device.outcome(&queue, 1);
        counts[outcome as usize] += 1;
        if outcome == Outcome::Nothing {
            lost.push(name);
        }
        device.reset()
    };
    for bad in NOWHERE {
        // What a chain has of memory may be written: around the ends of RAM that would be the guest's own loss.
        let harmless: &[u16] = if NEAR_RAM.contains(&bad) { &[0] } else { &[0, WRITE, INDIRECT] };
        for &flags in harmless {
            attempt(format!("{bad:#x} {flags}"), &|_, _| vec![(bad, 64, flags, 0)])?;
            attempt(format!("{bad:#x} {flags} long"), &|_, _| vec![(bad, !15, flags, 0)])?;
            attempt(format!("{bad:#x} {flags} behind"), &|_, good| {
                vec![(good, 16, NEXT, 1), (bad, 512, flags | NEXT, 2), (good + 1024, 1, WRITE, 0)]
            })?;
        }
    }
    attempt("loop".into(), &|_, good| vec![(good, 64, WRITE | NEXT, 0)])?;
    attempt("longer loop".into(), &|_, good| {
        vec![(good, 64, NEXT, 1), (good, 64, NEXT, 2), (good, 64, NEXT, 0)]
    })?;
    attempt("empty loop".into(), &|_, good| vec![(good, 0, WRITE | NEXT, 1), (good, 0, WRITE | NEXT, 0)])?;
    attempt("beyond the table".into(), &|_, good| vec![(good, 64, NEXT, SIZE)])?;
    attempt("far beyond the table".into(), &|_, good| vec![(good, 64, NEXT, 0xffff)])?;
    attempt("nothing".into(), &|_, good| vec![(good, 0, 0, 0)])?;
    attempt("all of memory".into(), &|_, good| vec![(good, u32::MAX, 0, 0)])?;
    attempt("the rings themselves".into(), &|rings, _| {
        vec![(rings, 64, NEXT, 1), (rings, PAGE as u32, WRITE, 0)]
    })?;
    attempt("a table in a table".into(), &|rings, _| vec![(rings, 256, INDIRECT, 0)])?;
    attempt("a table of odd length".into(), &|rings, _| vec![(rings, 17, INDIRECT, 0)])?;
    attempt("an empty table".into(), &|rings, _| vec![(rings, 0, INDIRECT, 0)])?;
    attempt("a table and more".into(), &|rings, _| vec![(rings + 64, 64, INDIRECT | NEXT, 1)])?;
    Ok(json!({"used": counts[0], "needs_reset": counts[1], "nothing": counts[2], "lost": lost}))
}

/// Rings that contradict themselves: the device asks for a reset.
fn rings(device: &Device) -> Seen {
    type Break = fn(&Queue);
    let breaks: [(&str, Break); 4] = [
        ("more than there is room for", |queue| queue.set_available(SIZE + 1)),
        ("as many as can be", |queue| queue.set_available(0xffff)),
        ("a head beyond the table", |queue| queue.offer(SIZE, 0)),
        ("a head far beyond the table", |queue| queue.offer(0xffff, 0)),
    ];
    let mut seen = serde_json::Map::new();
    for (name, break_it) in breaks {
        let queue = device.start()?;
        break_it(&queue);
        device.notify(0);
        let outcome = device.outcome(&queue, u16::MAX);
        seen.insert(name.to_owned(), json!(outcome == Outcome::NeedsReset));
        device.reset()?;
    }
    Ok(seen.into())
}

/// Every register of the BAR at every width, twice: reset, and with a driver that is up.
fn registers(device: &Device) -> Seen {
    let mut random = Random::new();
    let mut accesses = 0_u64;
    for up in [false, true] {
        let queue = if up { Some(device.start()?) } else { None };
        for width in [1, 2, 4, 8] {
            for at in (0..BAR_SIZE).step_by(width).filter(|at| at % 0x1000 < 0x140 || at % 0x40 == 0) {
                let _ = device.bar.read(at, width);
                device.bar.write(at, width, random.next());
                accesses += 2;
            }
        }
        device.reset()?;
        drop(queue);
    }
    Ok(json!({"accesses": accesses}))
}

/// Doorbells of queues that are there and that are not, with any value, at any width.
fn notify(device: &Device) -> Seen {
    let queue = device.start()?;
    for index in 0..=u16::MAX {
        device.notify(index);
    }
    for width in [1, 2, 4, 8] {
        for at in (NOTIFY..NOTIFY + 0x1000).step_by(width) {
            device.bar.write(at, width, u64::MAX);
        }
    }
    queue.describe(0, queue.buffer().0, 64, WRITE, 0);
    queue.offer(0, 0);
    device.notify(0);
    Ok(json!({"used": device.outcome(&queue, 1) == Outcome::Used}))
}

/// Requests that are under way while the device is reset, again and again.
fn in_flight(device: &Device) -> Seen {
    const ROUNDS: u32 = 60;
    for _ in 0..ROUNDS {
        let queue = device.start()?;
        for index in 0..SIZE {
            queue.describe(index, queue.buffer().0, PAGE as u32, WRITE, 0);
            queue.offer(index, index);
        }
        device.notify(0);
        device.reset()?;
    }
    Ok(json!({"rounds": ROUNDS}))
}

/// Requests that change a disk: the status of each, by the type of the request.
fn read_only(device: &Device) -> Seen {
    const OUT: u32 = 1;
    const DISCARD: u32 = 11;
    const WRITE_ZEROES: u32 = 13;
    const SECURE_ERASE: u32 = 14;
    let mut seen = serde_json::Map::new();
    for (name, kind) in
        [("write", OUT), ("discard", DISCARD), ("zeroes", WRITE_ZEROES), ("erase", SECURE_ERASE), ("scsi", 2)]
    {
        let queue = device.start()?;
        let (at, bytes) = (queue.buffer().0, queue.buffers.bytes());
        // Header: type, reserved, sector. Data: a sector of ones, or a range that begins at sector 0.
        bytes.write(0, 4, kind.into());
        bytes.write(8, 8, 0);
        for offset in (512..1024).step_by(8) {
            bytes.write(offset, 8, if kind == OUT { u64::MAX } else { 0 });
        }
        bytes.write(512 + 8, 4, 8);
        bytes.write(2048, 1, 0xff);
        queue.describe(0, at, 16, NEXT, 1);
        queue.describe(1, at + 512, if kind == OUT { 512 } else { 16 }, NEXT, 2);
        queue.describe(2, at + 2048, 1, WRITE, 0);
        queue.offer(0, 0);
        device.notify(0);
        let outcome = device.outcome(&queue, 1);
        seen.insert(name.to_owned(), json!((outcome == Outcome::Used).then(|| bytes.read(2048, 1))));
        device.reset()?;
    }
    Ok(seen.into())
}
