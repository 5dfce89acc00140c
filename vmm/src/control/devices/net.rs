//! `net`: opens the tap of an interface, or makes it.

use std::collections::BTreeSet;

use granule_api::config::{MacAddr, Net, NetConfig, TokenBucket};

use super::{Argument, Ids, PlanError, Planned, Recipe};
use crate::control::files::FileError;
use crate::tap::{self, Wanted};
use crate::wire::DeviceKind;

/// Opens the tap of one interface; `name` is the path of its object in the request, as in `net[0]`.
pub(super) fn plan(
    name: &str,
    raw: &mut NetConfig,
    checked: &Net,
    ids: &mut Ids,
    taken: &BTreeSet<String>,
) -> Result<Planned, PlanError> {
    let id = raw.id.get_or_insert_with(|| ids.give("_net", taken)).clone();
    let wanted = Wanted {
        name: checked.tap.as_deref(),
        queues: checked.pairs,
        address: Some((checked.ip, checked.mask)),
        mac: checked.host_mac,
        mtu: checked.mtu,
    };
    let tap = tap::open(&wanted).map_err(|source| FileError::Unusable {
        field: format!("{name}.{}", source.key),
        path: checked.tap.clone().unwrap_or_default().into(),
        source: source.into(),
    })?;
    tracing::info!(id, tap = tap.name, "the tap is open");
    let mut arguments: Vec<Argument> =
        tap.queues.into_iter().map(|queue| Argument::Fd("--tap-fd", queue)).collect();
    let mut texts = |words: &[&str]| {
        arguments.extend(words.iter().map(|word| Argument::Text((*word).to_owned())));
    };
    texts(&["--tap-offloads", &tap.offloads.to_string(), "--mac", &MacAddr(checked.mac).to_string()]);
    texts(&["--queue-size", &checked.queue_size.to_string()]);
    if let Some(mtu) = checked.mtu {
        texts(&["--mtu", &mtu.to_string()]);
    }
    let flags = ["--no-checksum", "--no-segmentation", "--no-fragmentation"];
    for (flag, _) in flags.into_iter().zip(checked.offloads).filter(|(_, wanted)| !wanted) {
        texts(&[flag]);
    }
    for (flag, bucket) in [("--bandwidth", checked.limits.bandwidth), ("--operations", checked.limits.ops)] {
        // A bucket without size or time is no limit, as in Cloud Hypervisor.
        if let Some(TokenBucket { size, one_time_burst, refill_time }) = bucket
            && size > 0
            && refill_time > 0
        {
            texts(&[flag, &format!("{size},{},{refill_time}", one_time_burst.unwrap_or(0))]);
        }
    }
    Ok(Planned {
        recipe: Recipe { id, kind: DeviceKind::Net, arguments },
        place: checked.place,
        memory: None,
        // Two for each pair, and one for commands.
        queue_sizes: vec![checked.queue_size; 2 * usize::from(checked.pairs) + 1],
    })
}
