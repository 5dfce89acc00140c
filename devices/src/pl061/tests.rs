use std::sync::Arc;

use vm_device::MutDeviceMmio;
use vm_device::bus::MmioAddress;

use super::spec::*;
use super::*;
use crate::fakes::FakeLine;

const BUTTON: u32 = POWER_BUTTON as u32;

/// The address whose mask is the button's pin.
const DATA: u64 = (POWER_BUTTON as u64) << 2;

fn gpio() -> (Pl061, Arc<FakeLine>) {
    let line = Arc::new(FakeLine::default());
    (Pl061::new(Arc::<FakeLine>::clone(&line)), line)
}

fn write(gpio: &mut Pl061, register: u64, value: u32) {
    gpio.mmio_write(MmioAddress(0), register, &value.to_le_bytes());
}

fn read(gpio: &mut Pl061, register: u64) -> u32 {
    let mut data = [0; 4];
    gpio.mmio_read(MmioAddress(0), register, &mut data);
    u32::from_le_bytes(data)
}

/// As Linux's gpio-keys sets an interrupt up: both edges.
fn listen(gpio: &mut Pl061) {
    write(gpio, GPIOIS, 0);
    write(gpio, GPIOIBE, BUTTON);
    write(gpio, GPIOIE, BUTTON);
}

#[test]
fn linux_recognises_it_by_its_identification() {
    let (mut gpio, _) = gpio();
    let id: Vec<u32> = (0..8).map(|index| read(&mut gpio, 0xfe0 + 4 * index)).collect();
    assert_eq!(id, [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn a_press_is_seen_down_and_then_up_with_an_interrupt_each() {
    let (mut gpio, line) = gpio();
    listen(&mut gpio);
    gpio.press();
    assert!(line.asserted());
    assert_eq!(read(&mut gpio, GPIOMIS), BUTTON);
    write(&mut gpio, GPIOIC, BUTTON);
    assert!(!line.asserted());
    assert_eq!(read(&mut gpio, DATA), BUTTON, "down");
    assert!(line.asserted(), "the falling edge");
    write(&mut gpio, GPIOIC, BUTTON);
    assert_eq!(read(&mut gpio, DATA), 0, "up");
    assert!(!line.asserted());
}

#[test]
fn a_press_that_nobody_saw_does_not_swallow_the_next() {
    let (mut gpio, line) = gpio();
    gpio.press();
    listen(&mut gpio);
    write(&mut gpio, GPIOIC, BUTTON);
    gpio.press();
    assert!(line.asserted());
    assert_eq!(read(&mut gpio, DATA), BUTTON);
}

#[test]
fn reading_other_pins_does_not_let_the_button_go() {
    let (mut gpio, _) = gpio();
    gpio.press();
    assert_eq!(read(&mut gpio, 0), 0);
    assert_eq!(read(&mut gpio, u64::from(!POWER_BUTTON) << 2), 0);
    assert_eq!(read(&mut gpio, 0x3fc), BUTTON);
}

#[test]
fn a_level_interrupt_follows_the_pin() {
    let (mut gpio, line) = gpio();
    write(&mut gpio, GPIOIS, BUTTON);
    write(&mut gpio, GPIOIEV, BUTTON);
    write(&mut gpio, GPIOIE, BUTTON);
    gpio.press();
    write(&mut gpio, GPIOIC, BUTTON);
    assert!(line.asserted(), "a level cannot be cleared");
    read(&mut gpio, DATA);
    assert!(!line.asserted());
}

#[test]
fn outputs_read_back_under_their_mask() {
    let (mut gpio, _) = gpio();
    write(&mut gpio, GPIODIR, 0xf0);
    write(&mut gpio, 0x3fc, 0xff);
    assert_eq!(read(&mut gpio, 0x3fc), 0xf0);
    assert_eq!(read(&mut gpio, 0x10 << 2), 0x10);
    write(&mut gpio, 0x10 << 2, 0);
    assert_eq!(read(&mut gpio, 0x3fc), 0xe0);
}

#[test]
fn save_restore_save_is_equal_and_drives_the_line() {
    let (mut gpio, _) = gpio();
    listen(&mut gpio);
    gpio.press();
    let (mut other, line) = self::gpio();
    other.restore(gpio.save());
    assert_eq!(other.save(), gpio.save());
    assert!(line.asserted());
    other.reset();
    assert!(!line.asserted());
}

#[test]
fn any_width_at_any_offset_is_safe() {
    let (mut gpio, _) = gpio();
    for offset in 0..0x1008 {
        for len in 0..=8 {
            gpio.mmio_write(MmioAddress(0), offset, &[0xff; 8][..len]);
            gpio.mmio_read(MmioAddress(0), offset, &mut vec![0; len]);
            gpio.press();
        }
    }
}
