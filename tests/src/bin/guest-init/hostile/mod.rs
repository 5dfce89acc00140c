//! A guest that means ill: it takes a virtio function from its driver and does to it what no driver would.
//!
//! ```text
//! hostile:ATTACK:BDF ── unbind ─► map BAR 0 ─► attack ─► reset ─► bind ─► what it saw
//! ```
//! Whether the machine has stood it is for the host to say. An attack tells what the device did: answered, asked for a
//! reset, or neither, which is worth a failure.

mod attacks;
mod device;
mod physical;

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::checks::Seen;
use device::{Device, common};
use physical::Window;

/// Carries out `ATTACK:BDF`.
pub fn look(words: &str) -> Seen {
    let (attack, bdf) = words.split_once(':').ok_or("hostile:ATTACK:BDF")?;
    let bdf = bdf.replace('.', ":");
    let [segment, bus, slot, function] = bdf.split(':').collect::<Vec<_>>()[..] else {
        return Err(format!("{bdf} is no PCI function"));
    };
    let bdf = format!("{segment}:{bus}:{slot}.{function}");
    if attack == "configuration" {
        return configuration();
    }
    let folder = format!("/sys/bus/pci/devices/{bdf}");
    if Path::new(&format!("{folder}/driver")).exists() {
        write(&format!("{folder}/driver/unbind"), &bdf)?;
    }
    write(&format!("{folder}/enable"), "1")?;
    // Bus master, which the driver has taken away when it left.
    let window = Window::file(&format!("{folder}/resource0"), 0, device::BAR_SIZE)?;
    let device = Device::new(window);
    let seen = match attack {
        "bus-reset" => bus_reset(&device, &folder),
        _ => attacks::carry_out(attack, &device),
    };
    write(&format!("{folder}/enable"), "0")?;
    write("/sys/bus/pci/drivers/virtio-pci/bind", &bdf)?;
    seen
}

/// The port that the function is behind resets what is there, an interrupt that waits included.
fn bus_reset(device: &Device, folder: &str) -> Seen {
    let queue = device.start_with_vector(0)?;
    queue.describe(0, queue.buffer().0, 64, device::WRITE, 0);
    queue.offer(0, 0);
    device.notify(0);
    let look =
        || json!({"status": device.get(common::STATUS), "pending": device.bar.read(device::PENDING, 1)});
    let raised = device.wait(|| device.bar.read(device::PENDING, 1) != 0);
    let before = look();
    write(&format!("{folder}/reset_method"), "bus")?;
    write(&format!("{folder}/reset"), "1")?;
    Ok(json!({"raised": raised, "before": before, "after": look()}))
}

/// Every register of the configuration spaces of the first buses, at every width, read and then written with nonsense.
/// The guest is of no use afterwards until it is reset.
fn configuration() -> Seen {
    const ECAM: u64 = 0x3000_0000;
    const BUS: usize = 1 << 20;
    let mut accesses = 0_u64;
    let mut random = attacks::Random::new();
    for bus in 0..3 {
        let window = Window::file("/dev/mem", ECAM + bus * BUS as u64, BUS)?;
        for function in [0, 1, 2, 0x1f << 3, 0x1f << 3 | 1, 0x1f << 3 | 7, 0xff].map(|f| f * 0x1000) {
            for width in [1, 2, 4, 8] {
                for at in (function..function + 0x120).step_by(width) {
                    let _ = window.read(at, width);
                    window.write(at, width, random.next());
                    accesses += 2;
                }
            }
        }
    }
    Ok(json!({"accesses": accesses}))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}
