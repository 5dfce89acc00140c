//! `rng`: the entropy source.

use granule_api::config::{Rng, VmConfig};

use super::{Argument, Planned, Recipe};
use crate::control::files::{self, FileError};
use crate::wire::DeviceKind;

pub(super) fn plan(config: &mut VmConfig, checked: &Rng) -> Result<Planned, FileError> {
    // Named at the first boot, and by this name from then on, as Cloud Hypervisor does.
    let id = config.rng.id.get_or_insert_with(|| "__rng".into()).clone();
    let source = files::open_entropy("rng.src", &checked.source)?;
    Ok(Planned {
        recipe: Recipe { id, kind: DeviceKind::Rng, arguments: vec![Argument::file("--source-fd", source)] },
        place: checked.place,
        queue_sizes: vec![256],
        memory: None,
    })
}
