//! The PL031 real-time clock (Arm DDI 0224): `vm-superio`'s, on the machine's bus.
//!
//! Reading and setting work, alarms do not: they would take a timer thread for what no guest of this kind uses.

use serde::{Deserialize, Serialize};
use vm_device::MutDeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_superio::Rtc;
use vm_superio::rtc_pl031::{NoEvents, RtcState};

use crate::amba;

/// A PL031 that shows the host's time, or what the guest has set it to.
pub struct Pl031(Rtc<NoEvents>);

impl Pl031 {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self(Rtc::new())
    }

    /// What it remembers.
    pub fn save(&self) -> Pl031State {
        let RtcState { lr, offset, mr, imsc, ris } = self.0.state();
        Pl031State { load: lr, offset, matching: mr, mask: imsc, raw: ris }
    }

    /// A clock that goes on as the saved one, at the time that it is now.
    pub fn restored(state: &Pl031State) -> Self {
        let Pl031State { load: lr, offset, matching: mr, mask: imsc, raw: ris } = *state;
        Self(Rtc::from_state(&RtcState { lr, offset, mr, imsc, ris }, NoEvents))
    }
}

/// All that a PL031 remembers. Every value is a valid one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pl031State {
    load: u32,
    offset: i64,
    matching: u32,
    mask: u32,
    raw: u32,
}

impl Default for Pl031 {
    fn default() -> Self {
        Self::new()
    }
}

impl MutDeviceMmio for Pl031 {
    fn mmio_read(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        amba::read(offset, data, |register| {
            let mut value = [0; 4];
            if let Ok(register) = u16::try_from(register) {
                self.0.read(register, &mut value);
            }
            u32::from_le_bytes(value)
        });
    }

    fn mmio_write(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let (Some(value), Ok(register)) = (amba::written(offset, data), u16::try_from(offset)) {
            self.0.write(register, &value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    const DATA: u64 = 0x00;
    const LOAD: u64 = 0x08;

    fn read(clock: &mut Pl031, register: u64) -> u32 {
        let mut data = [0; 4];
        clock.mmio_read(MmioAddress(0), register, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_shows_the_hosts_time_until_it_is_set() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        let mut clock = Pl031::new();
        assert!(read(&mut clock, DATA) - now <= 2);
        clock.mmio_write(MmioAddress(0), LOAD, &(now + 1000).to_le_bytes());
        assert!(read(&mut clock, DATA) - (now + 1000) <= 2);
        let mut restored = Pl031::restored(&clock.save());
        assert!(read(&mut restored, DATA) - (now + 1000) <= 2);
        assert_eq!(restored.save(), clock.save());
    }

    #[test]
    fn linux_recognises_it_by_its_identification() {
        let mut clock = Pl031::new();
        let id: Vec<u32> = (0..8).map(|index| read(&mut clock, 0xfe0 + 4 * index)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn any_width_at_any_offset_is_safe() {
        let mut clock = Pl031::new();
        for offset in 0..0x1008 {
            for len in 0..=8 {
                clock.mmio_write(MmioAddress(0), offset, &[0xff; 8][..len]);
                clock.mmio_read(MmioAddress(0), offset, &mut vec![0; len]);
            }
        }
    }
}
