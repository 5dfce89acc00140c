//! Tags through the C library: an unmodified program runs, a broken one is caught.

use std::process::Command;

use serde_json::json;

use super::{Seen, mte};
use crate::victim;

/// glibc tags its heap (bit 0) and asks for synchronous faults (bit 1).
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.mem.tagging=3");

/// Work for a shell and some tools, all of it on the heap; the last line is the sum of what they made.
const SCRIPT: &str = "\
i=0; while [ $i -lt 200 ]; do echo \"line $i of the heap\"; i=$((i+1)); done > /tmp/heap.txt
/bin/busybox sort -r /tmp/heap.txt | /bin/busybox awk '{ seen[$2] = $0; sum += $2 } END { print length(seen), sum }'
/bin/busybox grep -c '^VmFlags:.* mt' /proc/self/smaps";

/// Runs busybox and the heap's victims, with and without tags.
pub fn look() -> Seen {
    let run = |env: Option<(&str, &str)>| {
        let mut command = Command::new("/bin/busybox");
        command.args(["sh", "-c", SCRIPT]).env_remove(TUNABLES.0).envs(env);
        let output = command.output().map_err(|e| format!("/bin/busybox: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        Ok::<_, String>(json!({
            // grep ends with 1 when it counts no tagged mapping, so the lines tell, not the status.
            "signal": std::os::unix::process::ExitStatusExt::signal(&output.status),
            "result": lines.first(), "tagged_mappings": lines.get(1),
            "stderr": String::from_utf8_lossy(&output.stderr),
        }))
    };
    Ok(json!({
        "plain": run(None)?,
        "tagged": run(Some(TUNABLES))?,
        "victims_plain": mte::victims(&victim::HEAP, &[("GLIBC_TUNABLES", "")])?,
        "victims_tagged": mte::victims(&victim::HEAP, &[TUNABLES])?,
    }))
}
