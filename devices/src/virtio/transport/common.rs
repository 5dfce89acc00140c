//! The common configuration structure (virtio 1.2, §4.1.4.3): registers only, no device behind them.
//!
//! ```text
//!   0 ─ACKNOWLEDGE─► ─DRIVER─► ─FEATURES_OK─► ─DRIVER_OK─► running
//!   ▲                 features      queues        (Effect::Activate)
//!   └───── 0 written at any time (Effect::Reset) ──────────┘
//! ```
//! What belongs to an earlier step is locked afterwards: features after FEATURES_OK, a queue once it is enabled,
//! all queues after DRIVER_OK. Vectors may change at any time.

use super::queue::QueueConfig;
use super::state::{CommonState, StateError};
use crate::virtio::spec::{
    F_VERSION_1, NO_VECTOR, STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FAILED,
    STATUS_FEATURES_OK, STATUS_NEEDS_RESET, common,
};

/// What a write asks the device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing beyond the registers.
    None,
    /// The driver is up: serve the queues.
    Activate,
    /// Stop, and forget everything.
    Reset,
    /// The vector of this queue has changed.
    QueueVector(u16),
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommonConfig {
    pub status: u8,
    pub generation: u8,
    pub config_vector: u16,
    pub queues: Vec<QueueConfig>,
    offered: u64,
    accepted: u64,
    vectors: u16,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
}

impl CommonConfig {
    /// A device that offers `offered`, with queues of at most `queue_sizes` and `vectors` MSI-X vectors.
    pub fn new(offered: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            status: 0,
            generation: 0,
            config_vector: NO_VECTOR,
            queues: queue_sizes.iter().copied().map(QueueConfig::new).collect(),
            offered: offered | F_VERSION_1,
            accepted: 0,
            vectors,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
        }
    }

    /// The features that driver and device have agreed on.
    pub fn features(&self) -> u64 {
        self.accepted
    }

    /// Whether the driver is up.
    pub fn driver_ok(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0
    }

    /// The registers, as they are saved.
    pub fn save(&self) -> CommonState {
        let Self {
            status,
            generation,
            config_vector,
            queues,
            offered: _,
            accepted,
            vectors: _,
            device_feature_select,
            driver_feature_select,
            queue_select,
        } = self;
        CommonState {
            status: *status,
            generation: *generation,
            config_vector: *config_vector,
            features: *accepted,
            device_feature_select: *device_feature_select,
            driver_feature_select: *driver_feature_select,
            queue_select: *queue_select,
            queues: queues.iter().map(QueueConfig::save).collect(),
        }
    }

    /// Puts registers back, if they can be this device's.
    pub fn restore(&mut self, saved: &CommonState) -> Result<(), StateError> {
        let CommonState {
            status,
            generation,
            config_vector,
            features,
            device_feature_select,
            driver_feature_select,
            queue_select,
            queues,
        } = saved;
        if queues.len() != self.queues.len() {
            return Err(StateError::Queues { saved: queues.len(), here: self.queues.len() });
        }
        if status & STATUS_FEATURES_OK != 0 && features & !self.offered != 0 {
            return Err(StateError::Features { saved: *features, here: self.offered });
        }
        for (index, (queue, saved)) in self.queues.iter_mut().zip(queues).enumerate() {
            queue.restore(saved).map_err(|size| StateError::QueueSize { index, size })?;
        }
        self.status = *status;
        self.generation = *generation;
        self.config_vector = *config_vector;
        self.accepted = *features;
        self.device_feature_select = *device_feature_select;
        self.driver_feature_select = *driver_feature_select;
        self.queue_select = *queue_select;
        Ok(())
    }

    /// Puts every register where it was at power-on; only the generation goes on, as it must.
    pub fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self { generation: self.generation, ..Self::new(self.offered, &sizes, self.vectors) };
    }

    /// Reads, at any width and alignment; bytes beyond the structure read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        for (index, byte) in data.iter_mut().enumerate() {
            let at = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(index));
            *byte = at.and_then(|at| image.get(at)).copied().unwrap_or(0);
        }
    }

    /// Writes one register, at its own width (64-bit ones also by halves); other writes change nothing.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match *data {
            [value] if offset == common::DEVICE_STATUS => return self.set_status(value),
            [low, high] => return self.write_u16(offset, u16::from_le_bytes([low, high])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                let wide = (common::QUEUE_DESC..common::SIZE).contains(&offset) && offset.is_multiple_of(8);
                if wide {
                    self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                    self.write_u32(offset + 4, u32::from_le_bytes([e, f, g, h]));
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn write_u16(&mut self, offset: u64, value: u16) -> Effect {
        let vector = if value < self.vectors { value } else { NO_VECTOR };
        match offset {
            common::CONFIG_VECTOR => self.config_vector = vector,
            common::QUEUE_SELECT => self.queue_select = value,
            common::QUEUE_VECTOR => {
                let index = self.queue_select;
                if let Some(queue) = self.queues.get_mut(usize::from(index))
                    && queue.vector != vector
                {
                    queue.vector = vector;
                    return Effect::QueueVector(index);
                }
            }
            common::QUEUE_SIZE => {
                if let Some(queue) = self.unlocked_queue() {
                    queue.set_size(value);
                }
            }
            common::QUEUE_ENABLE => {
                if let Some(queue) = self.unlocked_queue() {
                    queue.enabled = value == 1;
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            common::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            common::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            common::DRIVER_FEATURE => self.accept_features(value),
            common::QUEUE_DESC..common::SIZE if offset.is_multiple_of(4) => {
                if let Some(queue) = self.unlocked_queue() {
                    let address = match offset & !7 {
                        common::QUEUE_DESC => &mut queue.descriptors,
                        common::QUEUE_DRIVER => &mut queue.available,
                        _ => &mut queue.used,
                    };
                    let shift = (offset & 4) * 8;
                    *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
                }
            }
            _ => {}
        }
    }

    fn accept_features(&mut self, value: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        match self.driver_feature_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            // There are no features there, so there is nothing to accept.
            _ => {}
        }
    }

    /// The selected queue, if there is one and the driver may still set it up.
    fn unlocked_queue(&mut self) -> Option<&mut QueueConfig> {
        if self.driver_ok() {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    fn set_status(&mut self, written: u8) -> Effect {
        if written == 0 {
            return Effect::Reset;
        }
        let before = self.status;
        let mut step = |bit: u8, needs: u8, allowed: bool| {
            if written & bit != 0 && self.status & needs == needs && allowed {
                self.status |= bit;
            }
        };
        // Bits are never cleared but by a reset, and each is taken in its turn only.
        step(STATUS_ACKNOWLEDGE, 0, true);
        step(STATUS_DRIVER, STATUS_ACKNOWLEDGE, true);
        let agreed = self.accepted & !self.offered == 0 && self.accepted & F_VERSION_1 != 0;
        step(STATUS_FEATURES_OK, STATUS_DRIVER, agreed);
        step(STATUS_DRIVER_OK, STATUS_FEATURES_OK, before & (STATUS_NEEDS_RESET | STATUS_FAILED) == 0);
        step(STATUS_FAILED, 0, true);
        if self.status & !before & STATUS_DRIVER_OK != 0 { Effect::Activate } else { Effect::None }
    }

    fn image(&self) -> [u8; common::SIZE as usize] {
        let mut image = [0; common::SIZE as usize];
        let mut put = |offset: u64, bytes: &[u8]| {
            image[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        };
        let offered = match self.device_feature_select {
            0 => self.offered as u32,
            1 => (self.offered >> 32) as u32,
            _ => 0,
        };
        let accepted = match self.driver_feature_select {
            0 => self.accepted as u32,
            1 => (self.accepted >> 32) as u32,
            _ => 0,
        };
        put(common::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(common::DEVICE_FEATURE, &offered.to_le_bytes());
        put(common::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(common::DRIVER_FEATURE, &accepted.to_le_bytes());
        put(common::CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(common::NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(common::DEVICE_STATUS, &[self.status]);
        put(common::CONFIG_GENERATION, &[self.generation]);
        put(common::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that is not there has size 0 (§4.1.4.3.1), and no vector.
        put(common::QUEUE_VECTOR, &NO_VECTOR.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(common::QUEUE_SIZE, &queue.size.to_le_bytes());
            put(common::QUEUE_VECTOR, &queue.vector.to_le_bytes());
            put(common::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(common::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(common::QUEUE_DESC, &queue.descriptors.to_le_bytes());
            put(common::QUEUE_DRIVER, &queue.available.to_le_bytes());
            put(common::QUEUE_DEVICE, &queue.used.to_le_bytes());
        }
        image
    }
}

#[cfg(test)]
#[path = "common_tests.rs"]
mod tests;
