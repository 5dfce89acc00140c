//! `memory.hotplug_size`: memory that is plugged into a guest that runs.

use std::io;

use granule_api::config::{HOTPLUG_BLOCK, Memory, PciPlace};
use granule_arch::layout::hotplug_window;
use granule_devices::mem::QUEUE_SIZES;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Argument, PlanError, Planned, Recipe, texts};
use crate::wire::DeviceKind;

/// Its name; there is one at most, and no configuration names it.
pub const ID: &str = "__mem";

/// The device, if memory may be plugged.
pub(super) fn plan(memory: &Memory) -> Result<Option<Planned>, PlanError> {
    let Some(hotplug) = memory.hotplug else { return Ok(None) };
    let notes = memfd_create("granule-plugged", MemfdFlags::CLOEXEC);
    let notes = notes.map_err(|errno| PlanError::Notes(io::Error::from(errno)))?;
    let window = hotplug_window(memory.size, hotplug.size).ok_or(PlanError::NoRoom)?;
    let numbers = [window.base().0, window.size(), HOTPLUG_BLOCK, hotplug.plugged];
    let [address, size, block, requested] = numbers.map(|number| number.to_string());
    let words = ["--address", &address, "--size", &size, "--block", &block, "--requested", &requested];
    let arguments = texts(&words).chain([Argument::Fd("--notes-fd", notes)]).collect();
    Ok(Some(Planned {
        recipe: Recipe { id: ID.to_owned(), kind: DeviceKind::Mem, arguments },
        place: PciPlace::default(),
        queue_sizes: QUEUE_SIZES.to_vec(),
        memory: None,
    }))
}
