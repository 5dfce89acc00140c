//! Network interfaces: `nic:NAME`.

use serde_json::json;

use super::{Seen, names, read};

/// What the kernel says of one interface.
pub fn look(name: &str) -> Seen {
    let folder = format!("/sys/class/net/{name}");
    let entry = |file: &str| read(&format!("{folder}/{file}"));
    Ok(json!({
        "address": entry("address")?, "mtu": entry("mtu")?, "carrier": entry("carrier").ok(),
        "queues": names(&format!("{folder}/queues")).len(),
    }))
}
