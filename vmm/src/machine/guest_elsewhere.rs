//! Where no Arm guest can run, the machine process still starts and answers every command; building is refused.

use std::os::fd::OwnedFd;

use granule_arch::host::HostReport;
use granule_jail::SeccompMode;

use super::mailbox::Postman;
use super::turn::Descriptors;
use crate::wire::{Blame, BootReport, BootSpec, DeviceReport, DeviceSpec, Failure};

/// Why nothing is built here.
#[derive(Debug, thiserror::Error)]
#[error("this host is not an Arm one: guests need KVM on aarch64")]
pub struct WrongArchitecture;

impl WrongArchitecture {
    /// Nobody who sends requests can mend it.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}

/// KVM of another architecture.
#[derive(Debug)]
pub enum Host {}

/// Never built.
#[derive(Debug)]
pub enum Guest {}

impl Host {
    /// Always refused.
    pub fn open() -> Result<Self, Failure> {
        Err(WrongArchitecture.into())
    }

    /// No host.
    pub fn report(&self) -> &HostReport {
        match *self {}
    }
}

/// Never begun.
#[derive(Debug)]
pub enum Restoring {}

impl Restoring {
    /// No guest.
    pub fn finish(self, _: &Postman, _: SeccompMode) -> Result<(Guest, BootReport), WrongArchitecture> {
        match self {}
    }
}

impl Guest {
    /// Always refused.
    pub fn build(
        _: &Host,
        _: &BootSpec,
        _: &mut Descriptors,
        _: &Postman,
        _: SeccompMode,
    ) -> Result<(Self, BootReport), WrongArchitecture> {
        Err(WrongArchitecture)
    }

    /// Always refused.
    pub fn restore(
        _: &Host,
        _: &BootSpec,
        _: &mut Descriptors,
        _: &Postman,
        _: SeccompMode,
    ) -> Result<Restoring, WrongArchitecture> {
        Err(WrongArchitecture)
    }

    /// No guest.
    pub fn save(&mut self, _: OwnedFd, _: Option<OwnedFd>) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn track(&mut self, _: OwnedFd) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn harvest(&self) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn release(&mut self) -> u64 {
        match *self {}
    }

    /// No guest, no pause.
    pub fn pause(&self) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn resume(&self) {
        match *self {}
    }

    /// None.
    pub fn exits(&self) -> std::collections::BTreeMap<String, u64> {
        match *self {}
    }

    /// No guest.
    pub fn halt(&self) {
        match *self {}
    }

    /// No guest.
    pub fn press_power_button(&self) {
        match *self {}
    }

    /// No guest.
    pub fn attach_serial(&self, _: OwnedFd) {
        match *self {}
    }

    /// No guest.
    pub fn backend_gone(&self, _: &str) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn config_changed(&self, _: &str) -> Result<(), WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn queue_broken(&self, _: &str) -> bool {
        match *self {}
    }

    /// No guest.
    pub fn add_device(
        &mut self,
        _: &DeviceSpec,
        _: &mut Descriptors,
    ) -> Result<DeviceReport, WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn remove_device(&mut self, _: &str) -> Result<Option<String>, WrongArchitecture> {
        match *self {}
    }

    /// No guest.
    pub fn take_out(&mut self, _: u16, _: u8) -> Option<String> {
        match *self {}
    }

    /// No guest.
    pub fn replace_backend(&self, _: &str, _: OwnedFd) -> Result<(), WrongArchitecture> {
        match *self {}
    }
}
