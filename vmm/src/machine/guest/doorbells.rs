//! Queue notifications: a guest's store to a doorbell wakes the device process through KVM, not through us.

use std::io;
use std::sync::Arc;

use granule_arch::kvm::Vm;
use granule_devices::platform::Doorbells;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

/// KVM's ioeventfds.
#[derive(Debug)]
pub struct KvmDoorbells {
    vm: Arc<Vm>,
}

impl KvmDoorbells {
    /// Doorbells of one machine.
    pub fn new(vm: Arc<Vm>) -> Arc<Self> {
        Arc::new(Self { vm })
    }
}

impl Doorbells for KvmDoorbells {
    fn attach(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        // No datamatch: KVM then takes a store of any width and value.
        Ok(self.vm.fd().register_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn detach(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        Ok(self.vm.fd().unregister_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}
