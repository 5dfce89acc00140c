//! A virtio function over PCI, driven by hand (virtio 1.2, §4.1.4.3, §2.7).

use std::time::{Duration, Instant};

use super::physical::{PAGE, Page, Window};

/// Where the structures lie in BAR 0.
pub const BAR_SIZE: usize = 0x8000;
/// The doorbells, four bytes each.
pub const NOTIFY: usize = 0x3000;
/// Pending bits of the interrupt vectors.
pub const PENDING: usize = 0x5000;
/// Descriptors of the queues that are set up here.
pub const SIZE: u16 = 16;

/// Registers of the common configuration: offset and width.
pub mod common {
    pub const DRIVER_FEATURE_SELECT: (usize, usize) = (0x08, 4);
    pub const DRIVER_FEATURE: (usize, usize) = (0x0c, 4);
    pub const STATUS: (usize, usize) = (0x14, 1);
    pub const QUEUE_SELECT: (usize, usize) = (0x16, 2);
    pub const QUEUE_SIZE: (usize, usize) = (0x18, 2);
    pub const QUEUE_MSIX_VECTOR: (usize, usize) = (0x1a, 2);
    pub const QUEUE_ENABLE: (usize, usize) = (0x1c, 2);
    pub const QUEUE_DESC: (usize, usize) = (0x20, 8);
    pub const QUEUE_DRIVER: (usize, usize) = (0x28, 8);
    pub const QUEUE_DEVICE: (usize, usize) = (0x30, 8);
    /// Bytes of it.
    pub const END: usize = 0x38;
}

pub const DRIVER_OK: u64 = 4;
pub const NEEDS_RESET: u64 = 0x40;
/// A descriptor goes on; is written by the device; is a table.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// How long a device may take, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a device has done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gave the request back.
    Used,
    /// It asked for a reset.
    NeedsReset,
    /// Nothing, in all that time.
    Nothing,
}

/// The function.
pub struct Device {
    pub bar: Window,
}

/// Queue 0, in a page of its own: descriptors, available ring, used ring; and a page for buffers.
pub struct Queue {
    pub rings: Page,
    pub buffers: Page,
}

const AVAILABLE: usize = 0x400;
const USED: usize = 0x800;

impl Device {
    pub fn new(bar: Window) -> Self {
        Self { bar }
    }

    pub fn get(&self, (at, width): (usize, usize)) -> u64 {
        self.bar.read(at, width)
    }

    pub fn set(&self, (at, width): (usize, usize), value: u64) {
        self.bar.write(at, width, value);
    }

    /// Resets it, and waits until it is.
    pub fn reset(&self) -> Result<(), String> {
        self.set(common::STATUS, 0);
        match self.wait(|| self.get(common::STATUS) == 0) {
            true => Ok(()),
            false => Err(format!("no reset: status {:#x}", self.get(common::STATUS))),
        }
    }

    /// Resets it, and agrees on VERSION_1 and nothing else.
    pub fn greet(&self) -> Result<(), String> {
        self.reset()?;
        self.set(common::STATUS, 3);
        for (select, features) in [(0, 0), (1, 1)] {
            self.set(common::DRIVER_FEATURE_SELECT, select);
            self.set(common::DRIVER_FEATURE, features);
        }
        self.set(common::STATUS, 3 | 8);
        match self.get(common::STATUS) {
            11 => Ok(()),
            other => Err(format!("the features are refused: status {other:#x}")),
        }
    }

    /// Sets queue 0 up at these addresses, and says that the driver is up.
    pub fn start_at(&self, descriptors: u64, available: u64, used: u64) {
        self.set(common::QUEUE_SELECT, 0);
        self.set(common::QUEUE_SIZE, SIZE.into());
        self.set(common::QUEUE_DESC, descriptors);
        self.set(common::QUEUE_DRIVER, available);
        self.set(common::QUEUE_DEVICE, used);
        self.set(common::QUEUE_ENABLE, 1);
        self.set(common::STATUS, 11 | DRIVER_OK);
    }

    /// Greets it and sets queue 0 up properly.
    pub fn start(&self) -> Result<Queue, String> {
        self.greet()?;
        self.open()
    }

    /// As [`Self::start`]; the queue has this interrupt vector, which is routed nowhere.
    pub fn start_with_vector(&self, vector: u16) -> Result<Queue, String> {
        self.greet()?;
        self.set(common::QUEUE_SELECT, 0);
        self.set(common::QUEUE_MSIX_VECTOR, vector.into());
        self.open()
    }

    fn open(&self) -> Result<Queue, String> {
        let queue = Queue { rings: Page::new()?, buffers: Page::new()? };
        let base = queue.rings.address();
        self.start_at(base, base + AVAILABLE as u64, base + USED as u64);
        Ok(queue)
    }

    /// Rings the bell of a queue.
    pub fn notify(&self, queue: u16) {
        self.bar.write(NOTIFY + usize::from(queue % 1024) * 4, 2, queue.into());
    }

    /// Waits for what becomes of the first `count` requests.
    pub fn outcome(&self, queue: &Queue, count: u16) -> Outcome {
        let mut outcome = Outcome::Nothing;
        self.wait(|| {
            if queue.used() == count {
                outcome = Outcome::Used;
            } else if self.get(common::STATUS) & NEEDS_RESET != 0 {
                outcome = Outcome::NeedsReset;
            }
            outcome != Outcome::Nothing
        });
        outcome
    }

    /// Waits until something is so.
    pub fn wait(&self, mut there: impl FnMut() -> bool) -> bool {
        let since = Instant::now();
        while !there() {
            if since.elapsed() > PATIENCE {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

impl Queue {
    /// Writes a descriptor.
    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = usize::from(index) * 16;
        self.rings.bytes().write(at, 8, address);
        self.rings.bytes().write(at + 8, 4, length.into());
        self.rings.bytes().write(at + 12, 2, flags.into());
        self.rings.bytes().write(at + 14, 2, next.into());
    }

    /// Makes a chain available, behind `before` others.
    pub fn offer(&self, head: u16, before: u16) {
        let at = AVAILABLE + 4 + usize::from(before % SIZE) * 2;
        self.rings.bytes().write(at, 2, head.into());
        self.set_available(before.wrapping_add(1));
    }

    /// Says how many chains were made available.
    pub fn set_available(&self, count: u16) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.rings.bytes().write(AVAILABLE + 2, 2, count.into());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// How many the device has given back.
    pub fn used(&self) -> u16 {
        self.rings.bytes().read(USED + 2, 2) as u16
    }

    /// The buffers' first and last address.
    pub fn buffer(&self) -> (u64, u64) {
        (self.buffers.address(), self.buffers.address() + PAGE as u64 - 1)
    }
}
