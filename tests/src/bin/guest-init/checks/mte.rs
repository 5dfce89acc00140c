//! Tags by hand: IRG, STG and LDG over many granules, and death on a wrong tag.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use serde_json::{Map, Value, json};

use super::Seen;
use crate::sys::hwcaps;
use crate::tags::{
    Backing, HWCAP2_MTE, HWCAP2_MTE3, TaggedMemory, check_synchronously, random_tag, with_tag,
};
use crate::victim;

/// Bytes of each tagged mapping: enough granules to leave any cache of the machine's.
const LEN: usize = 4 << 20;

/// Looks whether there are tags and, if so, whether they hold.
pub fn look() -> Seen {
    let (_, hwcap2) = hwcaps();
    if hwcap2 & HWCAP2_MTE == 0 {
        return Ok(json!({
            "present": false,
            "prot_mte": TaggedMemory::map(Backing::Anonymous, 4096).is_ok(),
            "tag_checks": check_synchronously(0xffff).is_ok(),
        }));
    }
    check_synchronously(0xfffe).map_err(|e| format!("PR_SET_TAGGED_ADDR_CTRL: {e}"))?;
    let drawn = (0..256).map(|_| random_tag()).collect::<BTreeSet<_>>();
    Ok(json!({
        "present": true,
        "level": if hwcap2 & HWCAP2_MTE3 == 0 { 2 } else { 3 },
        "drawn": drawn.len(),
        "drew_excluded": drawn.contains(&0),
        "anonymous": hold(Backing::Anonymous)?,
        "shared": hold(Backing::Shared)?,
        "victims": victims(&victim::WRONG_TAG, &[])?,
    }))
}

/// Tags every granule with its own tag, then reads all tags and data back.
fn hold(backing: Backing) -> Seen {
    let memory = TaggedMemory::map(backing, LEN).map_err(|e| format!("{backing:?}: {e}"))?;
    let fresh = (0..memory.granules()).step_by(256).filter(|&i| memory.tag(i) != 0).count();
    let tags: Vec<u8> = (0..memory.granules()).map(|_| random_tag()).collect();
    let pointers: Vec<usize> = tags.iter().enumerate().map(|(i, &tag)| memory.set_tag(i, tag)).collect();
    for (value, &pointer) in (0_u64..).zip(&pointers) {
        memory.store(pointer, value);
    }
    let wrong_tags = tags.iter().enumerate().filter(|&(i, &tag)| memory.tag(i) != tag).count();
    let wrong_data =
        (0_u64..).zip(&pointers).filter(|&(value, &pointer)| memory.load(pointer) != value).count();
    let cleared = (0..memory.granules()).filter(|&i| {
        let pointer = memory.set_tag(i, 0);
        pointer == with_tag(pointer, 0) && memory.tag(i) == 0
    });
    let cleared = cleared.count();
    Ok(json!({
        "granules": memory.granules(), "fresh_tagged": fresh, "wrong_tags": wrong_tags,
        "wrong_data": wrong_data, "cleared": cleared,
    }))
}

/// Runs each victim and tells how it ended: `{"signal":11,"si_code":9}`, or `{"survived":true}`.
pub fn victims(kinds: &[&str], env: &[(&str, &str)]) -> Seen {
    let mut seen = Map::new();
    for &kind in kinds {
        let mut command = Command::new("/proc/self/exe");
        command.args(["victim", kind]).envs(env.iter().copied());
        let output = command.output().map_err(|e| format!("victim {kind}: {e}"))?;
        seen.insert(kind.to_owned(), ending(&output));
    }
    Ok(Value::Object(seen))
}

fn ending(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let code = text.lines().find_map(|l| l.strip_prefix("si_code=")).and_then(|n| n.parse::<i32>().ok());
    match output.status.signal() {
        Some(signal) => json!({"signal": signal, "si_code": code}),
        None if text.contains("survived") => json!({"survived": true}),
        None => json!({"status": output.status.code(), "stderr": String::from_utf8_lossy(&output.stderr)}),
    }
}
