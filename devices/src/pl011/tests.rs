use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_device::MutDeviceMmio;
use vm_device::bus::MmioAddress;

use super::spec::*;
use super::*;
use crate::fakes::FakeLine;
use crate::sync::lock;

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<u8>>>);

impl Write for Listener {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    uart: Pl011,
    line: Arc<FakeLine>,
    listener: Listener,
}

fn bench() -> Bench {
    let line = Arc::new(FakeLine::default());
    let listener = Listener::default();
    let uart = Pl011::new(Arc::<FakeLine>::clone(&line), Box::new(listener.clone())).unwrap();
    Bench { uart, line, listener }
}

impl Bench {
    /// What Linux's pl011_startup leaves behind.
    fn listening() -> Self {
        let mut bench = bench();
        bench.write(UARTLCR_H, 0x70);
        bench.write(UARTIFLS, 0x12);
        bench.write(UARTCR, CR_UARTEN | CR_RESET);
        bench.write(UARTIMSC, INT_RX | INT_RT);
        bench
    }

    fn write(&mut self, register: u64, value: u32) {
        self.uart.mmio_write(MmioAddress(0), register, &value.to_le_bytes());
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.uart.mmio_read(MmioAddress(0), register, &mut data);
        u32::from_le_bytes(data)
    }

    fn woken(&self) -> bool {
        self.uart.rx_event().read().is_ok()
    }
}

#[test]
fn linux_recognises_it_by_its_identification() {
    let mut bench = bench();
    let id: Vec<u32> = (0..8).map(|index| bench.read(0xfe0 + 4 * index)).collect();
    assert_eq!(id, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn what_the_guest_writes_is_sent_even_before_the_uart_is_on() {
    let mut bench = bench();
    for byte in *b"earlycon" {
        bench.write(UARTDR, u32::from(byte));
    }
    assert_eq!(*lock(&bench.listener.0), b"earlycon");
    assert_eq!(bench.read(UARTFR), FR_MODEM | FR_TXFE | FR_RXFE);
}

#[test]
fn a_transmit_interrupt_stands_until_it_is_cleared() {
    let mut bench = bench();
    bench.write(UARTIMSC, INT_TX);
    assert!(!bench.line.asserted(), "nothing was sent yet");
    bench.write(UARTDR, 65);
    assert!(bench.line.asserted());
    assert_eq!(bench.read(UARTMIS), INT_TX);
    bench.write(UARTIMSC, 0);
    assert!(!bench.line.asserted());
    assert_eq!((bench.read(UARTRIS), bench.read(UARTMIS)), (INT_TX, 0));
    bench.write(UARTICR, INT_TX);
    assert_eq!(bench.read(UARTRIS), 0);
}

#[test]
fn one_typed_byte_raises_the_timeout_and_half_a_fifo_the_level() {
    let mut bench = Bench::listening();
    assert_eq!(bench.uart.receive(b"l"), 1);
    assert_eq!(bench.read(UARTMIS), INT_RT);
    assert_eq!(bench.uart.receive(&[b's'; 15]), 15);
    assert_eq!(bench.read(UARTMIS), INT_RX);
    assert!(bench.line.asserted());
    // As Linux's handler does: clear, then read to the end.
    bench.write(UARTICR, INT_RX | INT_RT);
    let mut read = Vec::new();
    while bench.read(UARTFR) & FR_RXFE == 0 {
        read.push(bench.read(UARTDR) as u8);
    }
    assert_eq!(read, b"lsssssssssssssss");
    assert!(!bench.line.asserted());
}

#[test]
fn clearing_an_interrupt_does_not_hide_a_byte_that_is_still_there() {
    let mut bench = Bench::listening();
    bench.uart.receive(b"x");
    bench.write(UARTICR, INT_ALL);
    assert!(bench.line.asserted());
}

#[test]
fn input_waits_until_the_guest_listens() {
    let mut bench = bench();
    assert_eq!(bench.uart.receive(b"too early"), 0);
    bench.write(UARTLCR_H, LCR_FEN);
    bench.write(UARTCR, CR_UARTEN | CR_RESET);
    assert_eq!(bench.uart.rx_space(), 0);
    assert!(!bench.woken());
    bench.write(UARTIMSC, INT_RX | INT_RT);
    assert!(bench.woken());
    assert_eq!(bench.uart.receive(b"in time"), 7);
}

#[test]
fn a_guest_that_stops_listening_pushes_back_and_wakes_when_it_listens_again() {
    let mut bench = Bench::listening();
    assert!(bench.woken());
    bench.uart.receive(b"x");
    bench.read(UARTDR);
    // Linux's throttle and unthrottle.
    bench.write(UARTIMSC, 0);
    assert_eq!(bench.uart.rx_space(), 0);
    assert!(!bench.woken());
    bench.write(UARTIMSC, INT_RX | INT_RT);
    assert!(bench.woken());
}

#[test]
fn a_full_fifo_pushes_back_and_says_when_there_is_space() {
    let mut bench = Bench::listening();
    bench.woken();
    assert_eq!(bench.uart.receive(&[7; 100]), FIFO_DEPTH);
    assert_eq!(bench.uart.rx_space(), 0);
    assert_eq!(bench.read(UARTFR) & FR_RXFF, FR_RXFF);
    for _ in 0..FIFO_DEPTH / 2 - 1 {
        bench.read(UARTDR);
    }
    assert!(!bench.woken());
    bench.read(UARTDR);
    assert!(bench.woken());
    assert_eq!(bench.uart.rx_space(), FIFO_DEPTH / 2);
}

#[test]
fn without_fifos_there_is_room_for_one_byte() {
    let mut bench = Bench::listening();
    bench.uart.receive(b"flushed");
    bench.write(UARTLCR_H, 0x60);
    assert_eq!(bench.read(UARTFR) & FR_RXFE, FR_RXFE);
    assert_eq!(bench.uart.receive(b"ab"), 1);
    assert_eq!(bench.read(UARTMIS), INT_RX);
    assert_eq!(bench.read(UARTDR), u32::from(b'a'));
}

#[test]
fn save_restore_save_is_equal_and_drives_the_line() {
    let mut bench = Bench::listening();
    bench.uart.receive(b"kept");
    bench.write(UARTIBRD, 13);
    let saved = bench.uart.save();
    let mut other = self::bench();
    other.uart.restore(saved.clone()).unwrap();
    assert_eq!(other.uart.save(), saved);
    assert!(other.line.asserted());
    assert_eq!(other.read(UARTDR), u32::from(b'k'));
    let too_long = Pl011State { received: vec![0; 33], ..saved };
    assert_eq!(other.uart.restore(too_long), Err(RestoreError::FifoTooLong(33)));
}

#[test]
fn a_reset_lets_go_of_line_and_input() {
    let mut bench = Bench::listening();
    bench.uart.receive(b"gone");
    bench.uart.reset();
    assert!(!bench.line.asserted());
    assert_eq!(bench.read(UARTCR), CR_RESET);
}

proptest! {
    #[test]
    fn any_width_at_any_offset_is_safe_and_the_fifo_never_overflows(
        steps in prop::collection::vec((0u8..3, 0u64..0x1000, 0usize..9, any::<u64>()), 0..300)
    ) {
        let mut bench = Bench::listening();
        for (kind, place, len, value) in steps {
            let offset = if place & 1 == 0 { place % 0x50 } else { place };
            let mut data = value.to_le_bytes()[..len.min(8)].to_vec();
            match kind {
                0 => bench.uart.mmio_read(MmioAddress(0), offset, &mut data),
                1 => bench.uart.mmio_write(MmioAddress(0), offset, &data),
                _ => prop_assert!(bench.uart.receive(&data) <= data.len()),
            }
            prop_assert!(bench.uart.save().received.len() <= FIFO_DEPTH);
            prop_assert_eq!(bench.line.asserted(), bench.read(UARTMIS) != 0);
        }
    }
}
