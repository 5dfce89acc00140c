//! Granule: what its snapshots and restores take.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use granule_tests::client::Client;
use granule_tests::events::Events;
use granule_tests::{lab, memory, wait};
use serde_json::{Value, json};

use super::process::{Process, ms};
use super::{Figures, Subject};
use crate::contender::{Contender, Guest, Material};
use crate::run::family;

/// Clones of one snapshot whose memory is looked at together.
const CLONES: usize = 10;

/// A VM and its API.
struct Api {
    process: Process,
    client: Client,
    events: Events,
}

impl Api {
    fn start(mut command: Command, material: &Material, name: &str) -> Result<Self, String> {
        let (socket, events) = (material.folder.file(name), material.folder.file(&format!("{name}.events")));
        let _ = (fs::remove_file(&socket), fs::remove_file(&events));
        command.args(["--api-socket", &socket, "--event-monitor", &format!("path={events}")]);
        let process = Process::start(command)?;
        let client = wait::until(wait::LONG, || Client::connect(Path::new(&socket)).ok());
        let client = client.ok_or_else(|| format!("{socket}: nobody listens"))?;
        Ok(Self { process, client, events: Events::new(events.into()) })
    }

    /// How long an answer takes; milliseconds.
    fn call(&mut self, method: &str, endpoint: &str, body: Option<&Value>) -> Result<(f64, String), String> {
        let body = body.map(Value::to_string);
        let begun = Instant::now();
        let answer = self.client.call(method, &format!("/api/v1/{endpoint}"), body.as_deref());
        let answer = answer.map_err(|e| format!("{endpoint}: {e}"))?;
        match answer.code {
            200 | 204 => Ok((ms(begun, Instant::now()), answer.body)),
            code => Err(format!("{endpoint} was answered by {code}: {}", answer.body)),
        }
    }

    fn snapshot(&mut self, body: &Value) -> Result<f64, String> {
        Ok(self.call("PUT", "vm.snapshot", Some(body))?.0)
    }

    /// What the last live snapshot has told: milliseconds of pause, rounds, pages of the last round.
    fn live(&self) -> Result<[f64; 3], String> {
        let all = self.events.all();
        let last = all.iter().rev().find(|event| event.name() == "vm:snapshotted");
        let told = &last.ok_or("no event vm:snapshotted")?.properties;
        let number = |name: &str| {
            told[name]
                .as_str()
                .and_then(|text| text.parse::<f64>().ok())
                .ok_or(format!("no {name} in {told}"))
        };
        Ok([number("paused_us")? / 1000.0, number("rounds")?, number("pages_while_paused")?])
    }
}

/// Measures one guest; the snapshot stays in the material's folder for restores, until the next guest's.
pub fn measure(
    contender: &Contender,
    material: &Material,
    subject: &Subject,
    runs: usize,
) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let (full, other) = (material.folder.file("full"), material.folder.file("other"));
    clear(&full);
    let command = contender.start_with(material, Guest::Linux, &subject.cmdline(), subject.memory_mib);
    let mut api = Api::start(command, material, "api")?;
    api.process.wait_filled()?;
    super::step("filled");
    api.call("PUT", "vm.pause", None)?;
    for _ in 0..runs {
        clear(&full);
        figures.add("full", api.snapshot(&json!({"destination_url": url(&full)}))?);
    }
    for _ in 0..runs {
        let body = json!({"destination_url": url(&other), "parent": url(&full)});
        figures.add("compared", api.snapshot(&body)?);
        clear(&other);
    }
    super::step("full and compared");
    api.call("PUT", "vm.resume", None)?;
    for _ in 0..runs {
        figures.add("live", api.snapshot(&json!({"destination_url": url(&other), "live": true}))?);
        clear(&other);
        for (name, value) in ["pause", "rounds", "last pages"].into_iter().zip(api.live()?) {
            figures.add(name, value);
        }
    }
    drop(api);
    super::step("live");
    inspect(&full, &mut figures)?;
    for (mode, names) in [
        ("Copy", ["copy answered", "copy alive", "copy complete"]),
        ("OnDemand", ["demand answered", "demand alive", "demand complete"]),
    ] {
        for _ in 0..runs {
            let (mut api, times) = restore(contender, material, "api", &full, mode)?;
            figures.add(names[0], times[0]);
            figures.add(names[1], times[1]);
            if mode == "OnDemand" {
                figures.add(names[2], complete(&mut api)?);
            }
        }
        super::step(mode);
    }
    Ok(figures)
}

/// Restores in a new process; answers what took how long since that was started: the answer, and the guest's first sign of life.
fn restore(
    contender: &Contender,
    material: &Material,
    name: &str,
    path: &str,
    mode: &str,
) -> Result<(Api, [f64; 2]), String> {
    let mut api = Api::start(contender.empty_command(material, 0), material, name)?;
    let body = json!({"source_url": url(path), "memory_restore_mode": mode, "resume": true});
    api.call("PUT", "vm.restore", Some(&body))?;
    let answered = Instant::now();
    let alive = api.process.wait_alive()?;
    let times = [answered, alive].map(|at| ms(api.process.begun, at));
    Ok((api, times))
}

/// Waits until all of memory is there; milliseconds since the process was started.
fn complete(api: &mut Api) -> Result<f64, String> {
    let mut failed = None;
    let at = wait::until(wait::LONG, || match api.call("GET", "vm.info", None) {
        Err(why) => {
            failed = Some(why);
            Some(Instant::now())
        }
        Ok((_, body)) => body.contains(r#""state":"Complete""#).then(Instant::now),
    });
    match failed {
        Some(why) => Err(why),
        None => Ok(ms(api.process.begun, at.ok_or("memory does not become complete")?)),
    }
}

/// What clones of the snapshot that is there hold of memory: MiB each of the guest's, right at their first sign of life, and
/// the time until that.
pub fn clones(contender: &Contender, material: &Material) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let full = material.folder.file("full");
    let mut all = Vec::new();
    for number in 0..CLONES {
        let (api, times) = restore(contender, material, &format!("clone{number}"), &full, "OnDemand")?;
        // Nothing more comes while they are looked at.
        let family = family(api.process.pid());
        for &pid in &family {
            crate::run::stop(pid)?;
        }
        figures.add("clone alive", times[1]);
        all.push((api, family));
    }
    for (_, family) in &all {
        let kib: u64 = family.iter().filter_map(|pid| memory::whole(*pid)).sum();
        let beyond: u64 = family.iter().filter_map(|pid| memory::beyond_guest(*pid)).sum();
        figures.add("clone guest MiB", (kib - beyond) as f64 / 1024.0);
        figures.add("clone processes MiB", beyond as f64 / 1024.0);
    }
    Ok(figures)
}

/// Bytes of tags by kind of page, and what the files take.
fn inspect(path: &str, figures: &mut Figures) -> Result<(), String> {
    let output = Command::new(lab::granule())
        .args(["snapshot", "inspect", "--json", path])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("granule snapshot inspect: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Value = serde_json::from_str(&text).map_err(|e| format!("{e} in {text:?}"))?;
    let found = &all[0]["statistics"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    figures.add("raw pages", number(&found["raw"]));
    figures.add("tags file", number(&found["tags_file"]));
    for kind in ["untagged", "uniform", "runs", "packed"] {
        figures.add(&format!("{kind} pages"), number(&found[kind]["pages"]));
        figures.add(&format!("{kind} bytes"), number(&found[kind]["bytes"]));
    }
    Ok(())
}

fn url(path: &str) -> String {
    format!("file://{path}")
}

fn clear(path: &str) {
    // The first time there is none.
    let _ = fs::remove_dir_all(path);
}
