//! The vCPU threads: `vcpu0`, `vcpu1`, … in the very process that a runtime started, because it pins and accounts them
//! by these names.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use granule_arch::kvm::{Exit, Kick, SystemEvent, Vcpu};
use granule_jail::{SeccompMode, ThreadKind};
use vm_device::bus::MmioAddress;
use vm_device::device_manager::{IoManager, MmioManager};

use super::exits::Exits;
use crate::machine::gate::Gate;
use crate::machine::mailbox::Postman;
use crate::wire::{GuestEnd, Notice};

/// How long a vCPU may be held by something other than the guest (a device process that does not answer) before a pause
/// is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stack of a vCPU thread. The deepest path is a device's activation over vhost-user.
const STACK: usize = 256 * 1024;

/// All vCPU threads of a guest.
#[derive(Debug)]
pub struct Vcpus {
    gate: Arc<Gate>,
    kicks: Vec<Arc<Kick>>,
    /// Each held by its thread but while that stands at the gate.
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    threads: Vec<JoinHandle<()>>,
    exits: Vec<Arc<Exits>>,
}

/// Some vCPU did not come back to the gate.
#[derive(Debug, thiserror::Error)]
#[error("a vCPU is held by a device for more than {} s", PATIENCE.as_secs())]
pub struct Stuck;

impl Vcpus {
    /// Starts one thread per vCPU; they wait at the gate.
    pub fn start(
        vcpus: Vec<Vcpu>,
        bus: &Arc<IoManager>,
        postman: &Postman,
        seccomp: SeccompMode,
    ) -> io::Result<Self> {
        let gate = Arc::new(Gate::shut(vcpus.len()));
        let kicks = vcpus.iter().map(|vcpu| vcpu.kick().clone()).collect();
        let total = vcpus.len();
        let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let threads = Vec::with_capacity(total);
        let exits: Vec<_> = vcpus.iter().map(|_| Arc::new(Exits::default())).collect();
        let mut started =
            Self { gate: gate.clone(), kicks, vcpus: vcpus.clone(), threads, exits: exits.clone() };
        for (index, (vcpu, exits)) in vcpus.into_iter().zip(exits).enumerate() {
            let run = Thread {
                vcpu,
                index,
                gate: gate.clone(),
                bus: bus.clone(),
                postman: postman.try_clone()?,
                exits,
            };
            let thread =
                std::thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK).spawn(move || {
                    // A thread that is not jailed must not run the guest, and one that cannot run it has no other use.
                    if let Err(error) = granule_jail::enter_thread(ThreadKind::Vcpu, seccomp) {
                        eprintln!("granule: vcpu{index}: {error}");
                        std::process::abort();
                    }
                    run.run();
                });
            match thread {
                Ok(thread) => started.threads.push(thread),
                Err(error) => {
                    // Those that will never be started are counted out, so that the others can be waited for.
                    started.gate.forget(total - started.threads.len());
                    return Err(error);
                }
            }
        }
        Ok(started)
    }

    /// How often they came back from the guest, by reason.
    pub fn exits(&self) -> std::collections::BTreeMap<String, u64> {
        Exits::sum(self.exits.iter().map(|exits| &**exits))
    }

    /// Lets them run.
    pub fn open(&self) {
        self.gate.open();
    }

    /// Calls all back and waits until each stands at the gate. If one does not, all run on as before.
    pub fn pause(&self) -> Result<(), Stuck> {
        if self.gate.shut_and_wait(|| self.kick(), PATIENCE) {
            return Ok(());
        }
        self.gate.open();
        Err(Stuck)
    }

    /// The vCPUs, which stand at the gate: their states are nobody's to change but the caller's.
    pub fn standing(&self) -> Result<Vec<MutexGuard<'_, Vcpu>>, Stuck> {
        self.pause()?;
        Ok(self.vcpus.iter().map(|vcpu| lock(vcpu)).collect())
    }

    /// What another thread ends them by.
    pub fn recall(&self) -> Recall {
        Recall { gate: self.gate.clone(), kicks: self.kicks.clone() }
    }

    /// Calls all back without waiting.
    pub fn halt(&self) {
        self.gate.shut_now();
        self.kick();
    }

    fn kick(&self) {
        interrupt(&self.kicks);
    }
}

fn interrupt(kicks: &[Arc<Kick>]) {
    for kick in kicks {
        if let Err(error) = kick.interrupt() {
            // The wait that follows gives up in its time and says so.
            tracing::error!(%error, "a vCPU thread cannot be interrupted");
        }
    }
}

/// Ends all vCPUs, from whatever thread.
#[derive(Debug)]
pub struct Recall {
    gate: Arc<Gate>,
    kicks: Vec<Arc<Kick>>,
}

impl Recall {
    /// None enters the guest again. Those who wait in the kernel come out when what they wait for is over.
    pub fn for_good(&self) {
        self.gate.close();
        interrupt(&self.kicks);
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        if !self.gate.close_and_wait(|| self.kick(), PATIENCE) {
            // The guest's memory must not go while a thread may still touch it.
            eprintln!("granule: a vCPU thread cannot be ended");
            std::process::abort();
        }
        for thread in self.threads.drain(..) {
            // A panic aborts the process; there is no other way to fail.
            let _ = thread.join();
        }
    }
}

fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    // A panic aborts the process, so no lock is ever found poisoned.
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one thread works with.
struct Thread {
    vcpu: Arc<Mutex<Vcpu>>,
    index: usize,
    gate: Arc<Gate>,
    bus: Arc<IoManager>,
    postman: Postman,
    exits: Arc<Exits>,
}

impl Thread {
    fn run(self) {
        let kick = lock(&self.vcpu).kick().clone();
        let _attached = kick.attach();
        while self.gate.pass() {
            let notice = self.until_gate(&mut lock(&self.vcpu));
            if let Some(notice) = notice {
                self.gate.shut_now();
                self.postman.post(notice);
            }
            // Before the gate is looked at again: a call that comes after this is seen by the next entry.
            kick.acknowledge();
        }
    }

    /// Runs the guest until the thread is called back or the guest ends.
    fn until_gate(&self, vcpu: &mut Vcpu) -> Option<Notice> {
        loop {
            let exit = vcpu.run();
            if let Ok(exit) = &exit {
                self.exits.count(exit);
            }
            match exit {
                Ok(Exit::MmioRead { address, data }) => {
                    // Where no device is, a load answers zeros.
                    if self.bus.mmio_read(MmioAddress(address.0), data).is_err() {
                        data.fill(0);
                    }
                }
                Ok(Exit::MmioWrite { address, data }) => {
                    // A store to nothing goes nowhere.
                    let _ = self.bus.mmio_write(MmioAddress(address.0), data);
                }
                Ok(Exit::Undecodable { .. } | Exit::ReadOnly { .. }) => {
                    if let Err(error) = vcpu.inject_data_abort() {
                        return Some(self.failed(&error));
                    }
                }
                Ok(Exit::Interrupted) => return None,
                Ok(Exit::System(SystemEvent::Shutdown)) => {
                    return Some(Notice::GuestEnded(GuestEnd::PowerOff));
                }
                Ok(Exit::System(SystemEvent::Reset | SystemEvent::Crash)) => {
                    return Some(Notice::GuestEnded(GuestEnd::Reset));
                }
                // SYSTEM_SUSPEND is not offered; KVM answers it to the guest itself.
                Ok(Exit::System(SystemEvent::Suspend)) => {}
                Err(error) => return Some(self.failed(&error)),
            }
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Notice {
        let reason = crate::wire::Failure::from_source(error).causes.join(": ");
        Notice::VcpuFailed { vcpu: u8::try_from(self.index).unwrap_or(u8::MAX), reason }
    }
}
