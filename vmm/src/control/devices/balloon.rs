//! `balloon`: memory that the guest gives back.

use granule_api::config::{Balloon, VmConfig};
use granule_devices::balloon::queue_sizes;

use super::ids::taken;
use super::{Argument, Ids, Planned, Recipe};
use crate::wire::DeviceKind;

/// The balloon, if there is one.
pub(super) fn plan(config: &mut VmConfig, checked: Option<&Balloon>, ids: &mut Ids) -> Option<Planned> {
    let names = taken(config);
    let (raw, checked) = (config.balloon.as_mut()?, checked?);
    let id = raw.id.get_or_insert_with(|| ids.give("_balloon", &names)).clone();
    let text = |text: &str| Argument::Text(text.to_owned());
    let mut arguments = vec![text("--size"), text(&checked.size.to_string())];
    arguments.extend(checked.deflate_on_oom.then(|| text("--deflate-on-oom")));
    arguments.extend(checked.free_page_reporting.then(|| text("--free-page-reporting")));
    Some(Planned {
        recipe: Recipe { id, kind: DeviceKind::Balloon, arguments },
        place: checked.place,
        queue_sizes: queue_sizes(checked.free_page_reporting).to_vec(),
        memory: None,
    })
}
