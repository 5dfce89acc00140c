//! The guest's side: this program as its first one, and as what fills memory under it.
//!
//! ```text
//!   /init fill=KIND,MIB,MIB ──► /init filled KIND MIB MIB ──► "BENCH-FILLED", then dots for ever
//! ```
//! Tags are not checked there: in emulation that takes many times the rest.
//! A dot tells that the guest runs; between two of them it writes to a page, so that there is something to be saved again.

use std::io::Write;
use std::process::Command;

use granule_tests::tags::{Backing, TaggedMemory, with_tag};
use rustix::mount::{MountFlags, mount};

/// Said once memory is filled; only dots follow.
pub const FILLED: &str = "BENCH-FILLED";
/// What the guest could not do.
pub const FAILED: &str = "BENCH-FAILED";
/// A sign of life.
pub const DOT: u8 = b'.';

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const GRANULE: usize = 16;
/// Turns of a loop between two signs of life: some 20 microseconds under icount.
const SPIN: u32 = 3000;
/// Objects of the heap have at least so many bytes, and less than so many more.
const MIN_OBJECT: usize = 16;
const SPREAD: usize = 240;

/// How the guest's tagged memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without tags.
    Plain,
    /// Every page of one tag.
    Uniform,
    /// Objects as glibc tags them.
    Heap,
    /// Every granule at random.
    Random,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Uniform, Self::Heap, Self::Random];

    /// For the command line and the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Uniform => "uniform",
            Self::Heap => "heap",
            Self::Random => "random",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The word of the guest's command line: so many MiB of this kind, and so many without tags.
pub fn word(kind: Kind, mib: u64, plain_mib: u64) -> String {
    format!("fill={},{mib},{plain_mib}", kind.name())
}

/// Lives as the guest's first program.
pub fn live(what: &str) -> ! {
    // For what looks at itself there; nobody else needs it.
    let _ = mount("proc", "/proc", "proc", MountFlags::empty(), None);
    let mut command = Command::new("/init");
    command.arg("filled").args(what.split(','));
    let ended = command.status().map_or_else(|e| e.to_string(), |status| status.to_string());
    say(&format!("{FAILED} {ended}\n"));
    loop {
        std::thread::park();
    }
}

/// Fills memory and gives signs of life; it returns only what it could not do.
pub fn filled(arguments: &[String]) -> String {
    let number = |index: usize| arguments.get(index).and_then(|word| word.parse::<usize>().ok());
    let kind = arguments.first().and_then(|name| Kind::parse(name));
    let (Some(kind), Some(mib), Some(plain_mib)) = (kind, number(1), number(2)) else {
        return format!("{FAILED} not understood: {arguments:?}\n");
    };
    let plain = pages(plain_mib * MIB);
    let outcome = fill(kind, mib * MIB);
    drop(plain);
    outcome.map_or_else(|error| format!("{FAILED} {error}\n"), |()| format!("{FAILED} nothing to fill\n"))
}

fn fill(kind: Kind, bytes: usize) -> std::io::Result<()> {
    // A machine without tags has the same amount of data all the same.
    let Some(memory) =
        (kind != Kind::Plain).then(|| TaggedMemory::map(Backing::Anonymous, bytes).ok()).flatten()
    else {
        let mut words = pages(bytes);
        return beat(bytes / PAGE, |page| words[page * PAGE / 8] ^= 1);
    };
    match kind {
        Kind::Heap => heap(&memory),
        Kind::Random => {
            let mut dice = Dice(1);
            (0..memory.granules()).for_each(|granule| put(&memory, granule, dice.tag()));
        }
        _ => (0..memory.granules())
            .for_each(|granule| put(&memory, granule, (granule * GRANULE / PAGE % 15 + 1) as u8)),
    }
    beat(bytes / PAGE, |page| {
        let granule = page * PAGE / GRANULE;
        let pointer = with_tag(memory.pointer(granule), memory.tag(granule));
        memory.store(pointer, memory.load(pointer) ^ 1);
    })
}

/// Pages in each of which something is different in every word.
fn pages(bytes: usize) -> Vec<u64> {
    (0..bytes as u64 / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).collect()
}

/// Numbers in no order.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn tag(&mut self) -> u8 {
        (self.next() % 15 + 1) as u8
    }
}

/// Objects as glibc has them under `glibc.mem.tagging`: a header without a tag, then a tag for the object. Small ones are
/// more common than large ones, and each fourth was freed again, which takes its tag away.
fn heap(memory: &TaggedMemory) {
    let (mut dice, mut granule) = (Dice(1), 0);
    while granule < memory.granules() {
        put(memory, granule, 0);
        let object = MIN_OBJECT + (dice.next() % SPREAD).min(dice.next() % SPREAD);
        let tag = if dice.next().is_multiple_of(4) { 0 } else { dice.tag() };
        let end = (granule + 1 + object.div_ceil(GRANULE)).min(memory.granules());
        (granule + 1..end).for_each(|granule| put(memory, granule, tag));
        granule = end;
    }
}

fn put(memory: &TaggedMemory, granule: usize, tag: u8) {
    let pointer = memory.set_tag(granule, tag);
    memory.store(pointer, (granule as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
}

/// Gives signs of life for ever, writing to one of so many places between two of them.
fn beat(places: usize, mut write: impl FnMut(usize)) -> std::io::Result<()> {
    say(&format!("{FILLED}\n"));
    let mut output = std::io::stdout();
    for place in (0..places).cycle() {
        for turn in 0..SPIN {
            std::hint::black_box(turn);
        }
        output.write_all(&[DOT])?;
        output.flush()?;
        write(place);
    }
    Ok(())
}

fn say(text: &str) {
    // In one write, so that it is one piece on the console; a console that fails shows as a mark that never comes.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
