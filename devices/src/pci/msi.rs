//! MSI with one message, of 64-bit addresses, without masks (PCI Local Bus 3.0, §6.8.1): what a root port signals with.

use std::sync::Arc;

use tracing::debug;

use super::config::ConfigSpace;
use super::spec::{CAPABILITY_MSI, MSI_64, MSI_ENABLE};
use crate::platform::{MsiMessage, MsiVectors};

/// Offsets from the capability's beginning.
const CONTROL: usize = 2;
const ADDRESS: usize = 4;
const DATA: usize = 12;
const BODY: usize = 12;

/// The MSI side of one function.
pub struct Msi {
    vectors: Arc<dyn MsiVectors>,
    at: usize,
    routed: Option<MsiMessage>,
}

impl Msi {
    /// Adds the capability to `config`; the message goes out through vector 0 of `vectors`.
    pub fn add_to(config: &mut ConfigSpace, vectors: Arc<dyn MsiVectors>) -> Self {
        let mut body = [0; BODY];
        body[..2].copy_from_slice(&MSI_64.to_le_bytes());
        let mut writable = [0xff; BODY];
        writable[..2].copy_from_slice(&MSI_ENABLE.to_le_bytes());
        // Addresses of messages are aligned.
        writable[ADDRESS - 2] = 0xfc;
        let at = config.add_capability(CAPABILITY_MSI, &body, &writable);
        Self { vectors, at, routed: None }
    }

    /// Brings the route up to date with what the guest has written.
    pub fn update(&mut self, config: &ConfigSpace) {
        let wanted = (config.read_u16(self.at + CONTROL) & MSI_ENABLE != 0).then(|| {
            let high = u64::from(config.read_u32(self.at + ADDRESS + 4));
            let address = high << 32 | u64::from(config.read_u32(self.at + ADDRESS));
            MsiMessage { address, data: config.read_u16(self.at + DATA).into() }
        });
        if wanted == self.routed {
            return;
        }
        match self.vectors.route(0, wanted) {
            Ok(()) => self.routed = wanted,
            // The guest's own loss, and its to repeat as often as it likes.
            Err(error) => debug!(%error, "an interrupt could not be routed"),
        }
    }

    /// Sends the message; while the guest has MSI switched off, it waits.
    pub fn trigger(&self) {
        if let Some(eventfd) = self.vectors.eventfd(0)
            && let Err(error) = eventfd.write(1)
        {
            debug!(%error, "an interrupt could not be raised");
        }
    }

    /// Switches MSI off, as a reset does.
    pub fn reset(&mut self, config: &mut ConfigSpace) {
        config.put(self.at + CONTROL, &MSI_64.to_le_bytes());
        self.update(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeVectors;
    use crate::pci::config::Identity;

    fn msi() -> (Arc<FakeVectors>, ConfigSpace, Msi) {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x000c,
            revision: 0,
            class: [6, 4, 0],
            subsystem_vendor: 0,
            subsystem: 0,
        };
        let mut config = ConfigSpace::bridge(identity);
        let vectors = Arc::new(FakeVectors::new(1));
        let msi = Msi::add_to(&mut config, Arc::clone(&vectors) as Arc<dyn MsiVectors>);
        (vectors, config, msi)
    }

    #[test]
    fn the_message_is_routed_while_it_is_enabled() {
        let (vectors, mut config, mut msi) = msi();
        config.write(msi.at as u16 + 4, &[0x43, 0, 0x08, 0x08, 1, 0, 0, 0]);
        config.write(msi.at as u16 + 12, &[7, 0, 0, 0]);
        msi.update(&config);
        assert_eq!(vectors.routed(0), None);
        config.write(msi.at as u16 + 2, &[0xff, 0xff]);
        msi.update(&config);
        assert_eq!(vectors.routed(0), Some(MsiMessage { address: 0x1_0808_0040, data: 7 }));
        assert_eq!(config.read_u16(msi.at + CONTROL), MSI_64 | MSI_ENABLE, "one message, no masks");
        msi.reset(&mut config);
        assert_eq!(vectors.routed(0), None);
    }

    #[test]
    fn the_same_message_is_not_routed_again() {
        let (vectors, mut config, mut msi) = msi();
        config.write(msi.at as u16 + 2, &MSI_ENABLE.to_le_bytes());
        msi.update(&config);
        msi.update(&config);
        assert_eq!(vectors.routings(), 1);
    }
}
