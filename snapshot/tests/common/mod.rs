//! What the tests share: a guest whose memory is a map, and temporary directories.

#![allow(dead_code, reason = "each test file uses some of it")]

pub mod fake_disk;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use granule_snapshot::directory::{Description, Disk, OsDisk, Staging};
use granule_snapshot::layout::{Layout, PageSize, Region};
use granule_snapshot::manifest::{Manifest, Parent, SnapshotId};
use granule_snapshot::memory::{MemoryWriter, PageSink, PageSource};
use granule_snapshot::state::StateWriter;

/// A directory that goes away with the test.
pub struct TestDir(PathBuf);

impl TestDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("granule-snapshot-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // In memory where that can be: the tests are about order, not about how fast a disk syncs.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers that look random and are the same every time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
}

/// A guest: pages that are not there are zero and without tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub layout: Layout,
    pub data: BTreeMap<u64, Vec<u8>>,
    pub tags: BTreeMap<u64, Vec<u8>>,
}

impl Guest {
    pub fn new(page_size: PageSize, pages: u64) -> Self {
        let half = pages.div_ceil(2) * page_size.bytes() as u64;
        let rest = pages * page_size.bytes() as u64 - half;
        let mut regions = vec![Region { gpa: 0x4000_0000, size: half }];
        if rest > 0 {
            regions.push(Region { gpa: 0x100_0000_0000, size: rest });
        }
        let layout = Layout::new(page_size, regions).unwrap();
        Self { layout, data: BTreeMap::new(), tags: BTreeMap::new() }
    }

    pub fn store(&mut self, page: u64, value: u8) {
        if value == 0 {
            self.data.remove(&page);
        } else {
            let mut data = vec![value; self.layout.page_size().bytes()];
            data[0] = page as u8;
            self.data.insert(page, data);
        }
    }

    /// Tags by pattern: 0 none, 1 uniform, 2 one odd granule, 3 objects, 4 noise.
    pub fn tag(&mut self, page: u64, pattern: u8, seed: u64) {
        let mut numbers = Numbers(seed | 1);
        let granules = self.layout.page_size().granules();
        let mut tags = vec![0u8; granules];
        match pattern {
            0 => {}
            1 => tags.fill((numbers.below(15) + 1) as u8),
            2 => tags[numbers.below(granules as u64) as usize] = 9,
            3 => {
                let mut at = 1;
                while at < granules {
                    let (length, tag) = (numbers.below(6) as usize + 1, (numbers.below(15) + 1) as u8);
                    let end = (at + length).min(granules);
                    tags[at..end].fill(tag);
                    at = end + 1;
                }
            }
            _ => tags.iter_mut().for_each(|tag| *tag = numbers.below(16) as u8),
        }
        let packed: Vec<u8> = tags.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect();
        if packed.iter().all(|byte| *byte == 0) {
            self.tags.remove(&page);
        } else {
            self.tags.insert(page, packed);
        }
    }

    /// A guest with a bit of everything.
    pub fn example(page_size: PageSize, pages: u64, seed: u64) -> Self {
        let mut guest = Self::new(page_size, pages);
        guest.run(pages, seed);
        guest
    }

    /// Changes some pages.
    pub fn run(&mut self, changes: u64, seed: u64) {
        let mut numbers = Numbers(seed | 1);
        for _ in 0..changes {
            let (page, what) = (numbers.below(self.layout.pages()), numbers.next());
            if numbers.below(2) == 0 {
                self.store(page, (what % 4) as u8);
            } else {
                self.tag(page, (what % 5) as u8, what);
            }
        }
    }

    pub fn whole(&self) -> Source<'_> {
        Source { guest: self, before: None }
    }

    pub fn since<'a>(&'a self, before: &'a Self) -> Source<'a> {
        Source { guest: self, before: Some(before) }
    }
}

/// The pages of a guest, all or those that changed.
pub struct Source<'a> {
    guest: &'a Guest,
    before: Option<&'a Guest>,
}

impl PageSource for Source<'_> {
    fn next(&mut self, from: u64) -> io::Result<Option<u64>> {
        if self.before.is_some() {
            return Ok(Some(from).filter(|page| *page < self.guest.layout.pages()));
        }
        let data = self.guest.data.range(from..).next().map(|(page, _)| *page);
        let tags = self.guest.tags.range(from..).next().map(|(page, _)| *page);
        Ok(data.into_iter().chain(tags).min())
    }

    fn read_data(&mut self, page: u64, data: &mut [u8]) -> io::Result<bool> {
        let now = self.guest.data.get(&page);
        copy_or_clear(now, data);
        Ok(self.before.is_none_or(|before| before.data.get(&page) != now))
    }

    fn read_tags(&mut self, page: u64, packed: &mut [u8]) -> io::Result<bool> {
        let now = self.guest.tags.get(&page);
        copy_or_clear(now, packed);
        Ok(self.before.is_none_or(|before| before.tags.get(&page) != now))
    }
}

fn copy_or_clear(from: Option<&Vec<u8>>, to: &mut [u8]) {
    match from {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(0),
    }
}

impl PageSink for Guest {
    fn write_data(&mut self, page: u64, data: &[u8]) -> io::Result<()> {
        self.data.insert(page, data.to_vec());
        Ok(())
    }

    fn write_tags(&mut self, page: u64, packed: &[u8]) -> io::Result<()> {
        self.tags.insert(page, packed.to_vec());
        Ok(())
    }
}

pub const CONFIG: &[u8] = b"{\"cpus\":{\"boot_vcpus\":1}}\n";

pub fn state() -> Vec<u8> {
    let mut state = StateWriter::default();
    state.add("vcpu", "0", 1, &[1, 2, 3]).unwrap();
    state.add("gic", "", 1, &"tables").unwrap();
    state.encode().unwrap()
}

pub fn description(guest: &Guest, id: u8, parent: Option<(u8, &str)>) -> Description {
    Description {
        id: SnapshotId([id; 16]),
        parent: parent.map(|(id, path)| Parent { id: SnapshotId([id; 16]), path: path.to_owned() }),
        creator: "test".to_owned(),
        created: 1_764_000_000,
        arch: "aarch64".to_owned(),
        mte: Some(3),
        layout: guest.layout.clone(),
    }
}

/// Writes a snapshot on any disk.
pub fn write<D: Disk>(
    staging: Staging<D>,
    mut source: Source<'_>,
    description: Description,
) -> Result<Manifest, Box<dyn std::error::Error>> {
    let files = staging.create_memory_files(true)?;
    let mut writer = MemoryWriter::new(files, description.layout.clone(), description.parent.is_some())?;
    writer.put_all(&mut source)?;
    let summary = writer.finish()?;
    Ok(staging.commit(description, CONFIG, &state(), &summary)?)
}

pub fn save(target: &Path, guest: &Guest, id: u8) -> Manifest {
    let staging = Staging::create(OsDisk, target, false).unwrap();
    write(staging, guest.whole(), description(guest, id, None)).unwrap()
}

pub fn save_diff(target: &Path, guest: &Guest, before: &Guest, id: u8, parent: (u8, &str)) -> Manifest {
    let staging = Staging::create(OsDisk, target, false).unwrap();
    write(staging, guest.since(before), description(guest, id, Some(parent))).unwrap()
}
