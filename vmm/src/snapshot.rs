//! `granule snapshot inspect|verify|merge`: snapshots offline, without a VM and without KVM.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use granule_snapshot::directory::{Chain, OsDisk, Staging, Stamp, merge};
use granule_snapshot::inspect::{Statistics, verify};
use granule_snapshot::manifest::{Manifest, SnapshotId};
use serde_json::{Value, json};

/// What is to be done.
#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Tell what a snapshot and its parents hold: sizes, kinds of pages, tags
    Inspect {
        /// The snapshot's directory
        dir: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every byte of a snapshot and its parents, and check it
    Verify {
        /// The snapshot's directory
        dir: PathBuf,
    },
    /// Write a snapshot and its nearest parents as one
    Merge {
        /// The newest snapshot's directory
        dir: PathBuf,
        /// Where the result is to be
        target: PathBuf,
        /// How many snapshots, from the newest on; all of them if not given
        #[arg(long, value_name = "N")]
        count: Option<usize>,
    },
}

/// Does it.
pub fn run(args: SnapshotArgs) -> Result<ExitCode, Box<dyn Error>> {
    match args.what {
        What::Inspect { dir, json } => inspect(&dir, json)?,
        What::Verify { dir } => check(&dir)?,
        What::Merge { dir, target, count } => join(&dir, &target, count)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(dir: &Path, as_json: bool) -> Result<(), Box<dyn Error>> {
    let chain = Chain::open(dir)?;
    let mut all = Vec::new();
    for snapshot in chain.snapshots() {
        let statistics = Statistics::of(&mut snapshot.memory()?)?;
        let path = snapshot.directory().display().to_string();
        all.push(json!({
            "path": path,
            "manifest": described(snapshot.manifest()),
            "statistics": statistics,
        }));
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for one in &all {
        print(one);
    }
    Ok(())
}

fn described(manifest: &Manifest) -> Value {
    json!({
        "id": manifest.id.to_string(),
        "parent": manifest.parent.as_ref().map(|parent| parent.path.clone()),
        "creator": manifest.creator,
        "created": manifest.created,
        "arch": manifest.arch,
        "mte": manifest.mte,
        "page_size": manifest.layout.page_size().bytes(),
        "memory_bytes": manifest.layout.bytes(),
    })
}

fn print(one: &Value) {
    let (manifest, statistics) = (&one["manifest"], &one["statistics"]);
    println!("{}", one["path"].as_str().unwrap_or_default());
    for (name, value) in manifest.as_object().into_iter().flatten() {
        println!("  {name:<16} {value}");
    }
    for (name, value) in statistics.as_object().into_iter().flatten() {
        println!("  {name:<16} {value}");
    }
}

fn check(dir: &Path) -> Result<(), Box<dyn Error>> {
    let chain = Chain::open(dir)?;
    for snapshot in chain.snapshots() {
        let edited = if verify(snapshot)? { "" } else { " (config.json was edited)" };
        println!("{}: whole{edited}", snapshot.directory().display());
    }
    Ok(())
}

fn join(dir: &Path, target: &Path, count: Option<usize>) -> Result<(), Box<dyn Error>> {
    let chain = Chain::open(dir)?;
    let count = count.unwrap_or(chain.snapshots().len());
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        filled += rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let stamp = Stamp {
        id: SnapshotId(id),
        creator: granule_api::BUILD_VERSION.to_owned(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    let manifest = merge(&chain, count, Staging::create(OsDisk, target, false)?, stamp)?;
    println!("{}: {}", target.display(), manifest.id);
    Ok(())
}
