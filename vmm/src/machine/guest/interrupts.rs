//! Message-signalled interrupts of PCI functions: eventfd → irqfd → GSI → GICv3 ITS.
//!
//! ```text
//!  device process ── write(eventfd) ──► KVM irqfd ── route(GSI) ──► ITS (device id, event id) ──► vCPU
//! ```
//!
//! Neither the machine's threads nor `control` take part once a vector is routed. A masked vector has no irqfd: what
//! the device signals meanwhile stays in its eventfd and fires when the irqfd is attached again, because KVM polls the
//! eventfd when it is assigned (virt/kvm/eventfd.c, kvm_irqfd_assign).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use granule_arch::irq::ItsDeviceId;
use granule_arch::kvm::{MsiGsi, MsiRoute, RoutingTable, Vm};
use granule_devices::platform::{MsiMessage, MsiVectors};
use vmm_sys_util::eventfd::EventFd;

/// The machine's GSI routing table, shared by all functions.
#[derive(Debug)]
pub struct MsiRoutes {
    vm: Arc<Vm>,
    table: Mutex<RoutingTable>,
}

impl MsiRoutes {
    /// An empty table.
    pub fn new(vm: Arc<Vm>) -> Arc<Self> {
        Arc::new(Self { vm, table: Mutex::new(RoutingTable::new()) })
    }

    /// Vectors for one function.
    pub fn vectors(self: &Arc<Self>, device: ItsDeviceId, count: u16) -> io::Result<Arc<FunctionVectors>> {
        let mut table = lock(&self.table);
        let vectors = (0..count)
            .map(|_| {
                let eventfd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
                let gsi = table.claim().map_err(io::Error::other)?;
                Ok(Vector { gsi, eventfd, attached: Mutex::new(false) })
            })
            .collect::<io::Result<_>>()?;
        Ok(Arc::new(FunctionVectors { routes: self.clone(), device, vectors }))
    }

    /// Enters a route; KVM takes the table as a whole, so an unchanged one is not sent.
    fn install(&self, gsi: MsiGsi, route: MsiRoute) -> io::Result<()> {
        let mut table = lock(&self.table);
        if table.set(gsi, Some(route)) {
            table.install(self.vm.fd()).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// The vectors of one PCI function.
#[derive(Debug)]
pub struct FunctionVectors {
    routes: Arc<MsiRoutes>,
    device: ItsDeviceId,
    vectors: Vec<Vector>,
}

#[derive(Debug)]
struct Vector {
    gsi: MsiGsi,
    eventfd: EventFd,
    attached: Mutex<bool>,
}

/// Vectors of a function that is gone are free for the next.
impl Drop for FunctionVectors {
    fn drop(&mut self) {
        for number in 0..self.count() {
            if let Err(error) = self.route(number, None) {
                tracing::warn!(number, %error, "an interrupt could not be taken back");
            }
        }
        // KVM's own table forgets them when it is set the next time; until then nothing is attached to them.
        let mut table = lock(&self.routes.table);
        for vector in &self.vectors {
            table.release(vector.gsi);
        }
    }
}

impl MsiVectors for FunctionVectors {
    fn count(&self) -> u16 {
        // Made from a u16 in `vectors`.
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        self.vectors.get(usize::from(vector)).map(|vector| &vector.eventfd)
    }

    fn route(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        let vector = self.vectors.get(usize::from(vector)).ok_or(io::ErrorKind::InvalidInput)?;
        let vm = self.routes.vm.fd();
        let mut attached = lock(&vector.attached);
        match message {
            Some(MsiMessage { address, data }) => {
                self.routes.install(vector.gsi, MsiRoute { address, data, device: self.device })?;
                if !*attached {
                    vm.register_irqfd(&vector.eventfd, vector.gsi.raw())?;
                    *attached = true;
                }
            }
            None if *attached => {
                vm.unregister_irqfd(&vector.eventfd, vector.gsi.raw())?;
                *attached = false;
            }
            None => {}
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, so no lock is ever found poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
