//! The PCI devices, host bridges and hotplug slots that Linux enumerated.

use std::fs;

use serde_json::{Value, json};

use super::{Seen, names, read};

const DEVICES: &str = "/sys/bus/pci/devices";
const SLOTS: &str = "/sys/bus/pci/slots";

/// Lists bridges of the platform bus and every function with its driver and vectors.
pub fn look() -> Seen {
    let bridges: Vec<String> = names("/sys/devices/platform")
        .into_iter()
        .filter(|name| name.ends_with(".pcie") || name.ends_with(".pci"))
        .collect();
    let devices: Vec<Value> = names(DEVICES).iter().map(|bdf| function(bdf)).collect::<Result<_, _>>()?;
    let virtio: Vec<Value> = names("/sys/bus/virtio/devices").iter().map(|n| virtio_device(n)).collect();
    let slots: Vec<Value> = names(SLOTS).iter().map(|name| slot(name)).collect::<Result<_, _>>()?;
    Ok(json!({"bridges": bridges, "devices": devices, "virtio": virtio, "slots": slots}))
}

/// A hotplug slot: where a device in it would be, and whether there is one.
fn slot(name: &str) -> Seen {
    let value = |file: &str| read(&format!("{SLOTS}/{name}/{file}"));
    Ok(
        json!({"name": name, "address": value("address")?, "adapter": value("adapter")?, "power": value("power")?}),
    )
}

fn function(bdf: &str) -> Seen {
    let folder = format!("{DEVICES}/{bdf}");
    let path = fs::canonicalize(&folder).map_err(|e| format!("{folder}: {e}"))?;
    Ok(json!({
        "bdf": bdf,
        "id": format!("{}:{}", number(&folder, "vendor")?, number(&folder, "device")?),
        "class": number(&folder, "class")?,
        "driver": link_name(&format!("{folder}/driver")),
        "vectors": names(&format!("{folder}/msi_irqs")).len(),
        "path": path.display().to_string(),
    }))
}

fn virtio_device(name: &str) -> Value {
    let folder = format!("/sys/bus/virtio/devices/{name}");
    let features = read(&format!("{folder}/features")).unwrap_or_default();
    let bits: Vec<usize> = features.bytes().enumerate().filter(|&(_, b)| b == b'1').map(|(i, _)| i).collect();
    json!({
        "name": name, "device": read(&format!("{folder}/device")).ok(),
        "status": read(&format!("{folder}/status")).ok(), "driver": link_name(&format!("{folder}/driver")),
        "features": bits,
    })
}

fn number(folder: &str, name: &str) -> Result<String, String> {
    Ok(read(&format!("{folder}/{name}"))?.trim_start_matches("0x").to_owned())
}

fn link_name(path: &str) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}
