//! `net`: opens the tap of an interface, makes it, or takes what came with the request.

use granule_api::config::{MacAddr, Net};

use super::{Argument, PlanError, Planned, Recipe, limits, texts};
use crate::control::files::FileError;
use crate::control::vm::PassedFds;
use crate::tap::{self, Wanted};
use crate::wire::DeviceKind;

/// Opens the tap of one interface; `name` is the path of its object in the request, as in `net[0]`.
pub(super) fn plan(name: &str, id: String, checked: &Net, passed: &PassedFds) -> Result<Planned, PlanError> {
    let wanted = Wanted {
        name: checked.tap.as_deref(),
        queues: checked.pairs,
        address: Some((checked.ip, checked.mask)),
        mac: checked.host_mac,
        mtu: checked.mtu,
    };
    let opened = match passed.get(&id) {
        // They are kept for the next boot.
        Some(taps) if checked.passed => tap::adopt(taps),
        _ if checked.passed => tap::adopt(&[]),
        _ => tap::open(&wanted),
    };
    let tap = opened.map_err(|source| FileError::Unusable {
        field: format!("{name}.{}", source.key),
        path: checked.tap.clone().unwrap_or_default().into(),
        source: source.into(),
    })?;
    tracing::info!(id, tap = tap.name, "the tap is open");
    let mut arguments: Vec<Argument> =
        tap.queues.into_iter().map(|queue| Argument::Fd("--tap-fd", queue)).collect();
    arguments.extend(texts(&[
        "--tap-offloads",
        &tap.offloads.to_string(),
        "--mac",
        &MacAddr(checked.mac).to_string(),
    ]));
    arguments.extend(texts(&["--queue-size", &checked.queue_size.to_string()]));
    if let Some(mtu) = checked.mtu {
        arguments.extend(texts(&["--mtu", &mtu.to_string()]));
    }
    let flags = ["--no-checksum", "--no-segmentation", "--no-fragmentation"];
    for (flag, _) in flags.into_iter().zip(checked.offloads).filter(|(_, wanted)| !wanted) {
        arguments.extend(texts(&[flag]));
    }
    arguments.extend(limits(&checked.limits));
    Ok(Planned {
        recipe: Recipe { id, kind: DeviceKind::Net, arguments },
        place: checked.place,
        memory: None,
        // Two for each pair, and one for commands.
        queue_sizes: vec![checked.queue_size; 2 * usize::from(checked.pairs) + 1],
    })
}
