//! Requests of the front end, one at a time (vhost-user specification, "Front-end message types").

use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

use rustix::event::PollFlags;
use tracing::warn;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost_user_backend::VringT;
use virtio_queue::Error as QueueError;
use vm_memory::GuestAddressSpace;

use super::inflight;
use super::memory::SharedMemory;
use super::orders::{Counters, Orders};
use super::queue::Queue;
use super::ring::{Progress, Tally, Writes};
use super::write_log::WriteLog;
use super::{Device, Wake};
use crate::dirty::{DirtyLog, F_LOG_ALL};
use crate::userfault::Late;
use crate::virtio::backend::MAX_STATE;
use crate::virtio::spec::F_EVENT_IDX;

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// The state of one connection.
pub(super) struct Handler<D> {
    pub device: D,
    memory: SharedMemory,
    pub queues: Vec<Queue>,
    owned: bool,
    features: u64,
    log: WriteLog,
    /// How the last transfer of the device's state ended.
    state_moved: std::result::Result<(), String>,
}

impl<D: Device> Handler<D> {
    pub fn new(device: D, late: Option<Late>) -> std::result::Result<Self, QueueError> {
        let memory = SharedMemory::new(late);
        let queues = device.queue_sizes().iter().map(|size| Queue::new(*size, &memory));
        let queues = queues.collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            device,
            memory,
            queues,
            owned: false,
            features: 0,
            log: WriteLog::default(),
            state_moved: Ok(()),
        })
    }

    /// Takes note of a kick.
    pub fn take_kick(&mut self, index: u16) {
        // The request that came with it may have taken the queue away.
        if let Some(queue) = self.queues.get_mut(usize::from(index)).filter(|queue| queue.live()) {
            queue.take_kick(index);
        }
    }

    /// Has the device carry out an order; answers whether there may be more of them.
    pub fn take_order(&mut self, orders: &Orders) -> bool {
        let mut wake = Wake::default();
        let counted = self.counters();
        let more = orders.take(&mut self.device, &counted, &mut wake);
        self.wake(wake);
        more.unwrap_or_else(|error| {
            warn!(%error, "no more orders can be taken");
            false
        })
    }

    /// What every kind of device counts, by its queues.
    fn counters(&self) -> Counters {
        let sum = |of: fn(&Tally) -> u64| {
            self.queues.iter().map(|queue| of(&queue.tally)).fold(0, u64::wrapping_add)
        };
        vec![
            ("requests", sum(|tally| tally.requests)),
            ("bytes_to_guest", sum(|tally| tally.to_guest)),
            ("bytes_from_guest", sum(|tally| tally.from_guest)),
            ("queue_faults", sum(|tally| tally.faults)),
        ]
    }

    /// Tells the device of its files that are ready, and that its time is up.
    pub fn tell_device(&mut self, ready: &[(u64, PollFlags)]) {
        let mut wake = Wake::default();
        for (token, flags) in ready {
            self.device.ready(*token, *flags, &mut wake);
        }
        if self.device.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.device.elapsed(&mut wake);
        }
        self.wake(wake);
    }

    fn wake(&mut self, wake: Wake) {
        for (_, queue) in (0..).zip(&mut self.queues).filter(|(index, _)| wake.contains(*index)) {
            queue.pending = true;
        }
    }

    /// Serves the queues that were kicked or have work left over, each a little.
    pub fn serve_pending(&mut self) {
        let memory = self.memory.mapped.memory();
        let mut writes = self.log.is_logging().then(Writes::new);
        for (index, queue) in (0..).zip(&mut self.queues).filter(|(_, queue)| queue.pending && queue.live()) {
            let served = self.device.serve(index, &mut queue.ring(writes.as_mut()), &memory);
            self.log.mark(queue.used_ring(), writes.as_mut());
            match served {
                Ok(progress) => queue.pending = progress == Progress::More,
                Err(fault) => queue.fail(index, &fault),
            }
        }
    }

    /// Ends what is under way of a queue that is being stopped.
    fn drain(&mut self, index: u32) {
        let memory = self.memory.mapped.memory();
        let number = u16::try_from(index).ok();
        let Some((number, queue)) = number.and_then(|n| Some((n, self.queues.get_mut(usize::from(n))?)))
        else {
            return;
        };
        if !queue.live() {
            return;
        }
        let mut writes = self.log.is_logging().then(Writes::new);
        let drained = self.device.drain(number, &mut queue.ring(writes.as_mut()), &memory);
        self.log.mark(queue.used_ring(), writes.as_mut());
        if let Err(fault) = drained {
            queue.fail(number, &fault);
        }
    }

    fn queue(&mut self, index: impl TryInto<usize>) -> Result<&mut Queue> {
        let index = index.try_into().ok();
        index.and_then(|index| self.queues.get_mut(index)).ok_or(Error::InvalidParam)
    }

    fn offered(&self) -> u64 {
        self.device.features() | PROTOCOL_FEATURES | F_LOG_ALL
    }
}

impl<D: Device> VhostUserBackendReqHandlerMut for Handler<D> {
    fn set_owner(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.owned, true) {
            return Err(Error::InvalidOperation("already claimed"));
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for index in 0..self.queues.len() {
            self.drain(index as u32);
        }
        for queue in &mut self.queues {
            queue.ring.set_enabled(false);
            queue.ring.set_queue_ready(false);
            queue.pending = false;
        }
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::InvalidParam);
        }
        let before = std::mem::replace(&mut self.features, features);
        self.log.switch(features & F_LOG_ALL != 0);
        if features ^ before == F_LOG_ALL {
            // Sent while queues run, for this alone.
            return Ok(());
        }
        for queue in &mut self.queues {
            queue.ring.set_queue_event_idx(features & F_EVENT_IDX != 0);
            // Without protocol features there is no SET_VRING_ENABLE, and rings are born enabled.
            if features & PROTOCOL_FEATURES == 0 {
                queue.ring.set_enabled(true);
            }
        }
        self.device.accept_features(features & !(PROTOCOL_FEATURES | F_LOG_ALL));
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.memory.replace(table, files)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let queue = self.queue(index as usize)?;
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        queue.ring.get_mut().get_queue_mut().try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let descriptor = self.memory.guest_address(descriptor)?;
        let available = self.memory.guest_address(available)?;
        let used = self.memory.guest_address(used)?;
        let memory = self.memory.mapped.memory();
        let queue = self.queue(index as usize)?;
        queue.ring.set_queue_info(descriptor, available, used).map_err(|_| Error::InvalidParam)?;
        // The front end gives the available index (SET_VRING_BASE); the used index is the ring's own.
        let used_index = queue.ring.queue_used_idx().map_err(|_| Error::InvalidParam)?;
        queue.ring.set_queue_next_used(used_index);
        queue.mend();
        queue.take_up(used_index, &memory)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.queue(index as usize)?.ring.set_queue_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.drain(index);
        let queue = self.queue(index as usize)?;
        Ok(VhostUserVringState::new(index, u32::from(queue.stop())))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let queue = self.queue(index)?;
        queue.set_kick(file);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.queue(index)?.ring.set_call(file);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.queue(index)?.set_error(file);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut offered = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE;
        offered.set(VhostUserProtocolFeatures::INFLIGHT_SHMFD, self.device.keeps_order());
        Ok(offered)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let queue = self.queue(index as usize)?;
        queue.ring.set_enabled(enable);
        queue.pending = enable;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // Zeros beyond its end: a front end may know a longer layout than this device.
        let at = |index: usize| self.device.config().get(offset as usize + index).copied().unwrap_or(0);
        Ok((0..size as usize).map(at).collect())
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        let offset = offset as usize;
        let end = offset.checked_add(data.len()).ok_or(Error::InvalidParam)?;
        if end > self.device.config().len() {
            return Err(Error::InvalidParam);
        }
        self.device.write_config(offset, data);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _socket: GpuBackend) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(UNSUPPORTED)
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        inflight::make(wanted.num_queues, wanted.queue_size)
    }

    fn set_inflight_fd(&mut self, told: &VhostUserInflight, file: File) -> Result<()> {
        let areas = inflight::map(told, file)?;
        if areas.len() > self.queues.len() {
            return Err(Error::InvalidParam);
        }
        for (queue, area) in self.queues.iter_mut().zip(areas) {
            queue.in_flight = Some(area);
        }
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(UNSUPPORTED)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(UNSUPPORTED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> Result<Option<File>> {
        if self.queues.iter().any(Queue::live) {
            return Err(Error::InvalidOperation("queues are running"));
        }
        self.state_moved = match direction {
            VhostTransferStateDirection::SAVE => save_state(&self.device, file),
            VhostTransferStateDirection::LOAD => load_state(&mut self.device, file),
        };
        Ok(None)
    }

    fn check_device_state(&mut self) -> Result<()> {
        let moved = std::mem::replace(&mut self.state_moved, Ok(()));
        moved.map_err(|error| {
            warn!(error, "the device's state could not be moved");
            Error::InvalidParam
        })
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(UNSUPPORTED)
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let failed = |error: std::io::Error| Error::ReqHandlerError(error);
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        let mapped = DirtyLog::map(file, length, log.mmap_offset, log.mmap_size);
        self.log.replace(mapped.map_err(failed)?);
        Ok(())
    }
}

/// The file is read to its end, or written; it is whoever started us who made it, and it does not wait for anybody.
fn save_state(device: &impl Device, mut file: File) -> std::result::Result<(), String> {
    file.write_all(&device.save()).map_err(|error| error.to_string())
}

fn load_state(device: &mut impl Device, file: File) -> std::result::Result<(), String> {
    let mut state = Vec::new();
    let read = file.take(MAX_STATE + 1).read_to_end(&mut state).map_err(|error| error.to_string())?;
    if read as u64 > MAX_STATE {
        return Err(format!("state of more than {MAX_STATE} bytes"));
    }
    device.restore(&state)
}

/// The protocol feature that the request belongs to was not offered.
const UNSUPPORTED: Error = Error::InvalidOperation("not offered");
