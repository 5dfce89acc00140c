//! `disks`: block devices, in the order of `/dev/vda`, `/dev/vdb`, ….

use granule_api::config::{Disk, ImageType, LockGranularity};

use super::{Argument, Groups, PlanError, Planned, Recipe, limits, texts};
use crate::control::files::FileError;
use crate::image::{self, ImageKind, Wanted};
use crate::wire::DeviceKind;

/// Opens the image of one disk; `name` is the path of its object in the request, as in `disks[0]`.
pub fn plan(name: &str, id: String, checked: &Disk, groups: &mut Groups) -> Result<Planned, PlanError> {
    let kind = match checked.image_type {
        ImageType::Raw => ImageKind::Raw,
        ImageType::Qcow2 => ImageKind::Qcow2,
        ImageType::Unknown | ImageType::FixedVhd | ImageType::Vhdx => ImageKind::Unknown,
    };
    let wanted = Wanted {
        readonly: checked.readonly,
        direct: checked.direct,
        kind,
        lock_all: checked.lock == LockGranularity::Full,
    };
    let file = image::open(&checked.path, wanted).map_err(|source| FileError::Unusable {
        field: format!("{name}.{}", source.key()),
        path: checked.path.clone(),
        source: source.into(),
    })?;
    let mut arguments = vec![Argument::file("--image-fd", file)];
    arguments.extend(texts(&["--image-type", kind.name()]));
    arguments.extend(texts(&[
        "--queues",
        &checked.queues.to_string(),
        "--queue-size",
        &checked.queue_size.to_string(),
    ]));
    for (flag, wanted) in [("--readonly", checked.readonly), ("--no-sparse", !checked.sparse)] {
        if wanted {
            arguments.extend(texts(&[flag]));
        }
    }
    if let Some(serial) = &checked.serial {
        // One word, so that a serial number may begin with a dash.
        arguments.extend(texts(&[&format!("--serial={serial}")]));
    }
    arguments.extend(limits(&checked.limits));
    if let Some(group) = &checked.group {
        let failed = |source| PlanError::Group { field: format!("{name}.rate_limit_group"), source };
        arguments.push(Argument::Fd("--rate-group-fd", groups.memory(group).map_err(failed)?));
    }
    Ok(Planned {
        recipe: Recipe { id, kind: DeviceKind::Blk, arguments },
        place: checked.place,
        queue_sizes: vec![checked.queue_size; checked.queues.into()],
        memory: None,
    })
}
