//! Who maps guest memory: every address space in which pages are waited for, and must be mapped.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use granule_devices::userfault::{Announcement, Continued, Mapped, Userfault};
use granule_snapshot::layout::Layout;

use crate::wire::Failure;

/// Mappings that one process may have at a time: while a new table of memory comes, the old one goes.
const MOST: usize = 4;

/// How often the kernel may ask for the same again.
const PATIENCE: u32 = 1000;

/// All of them.
pub struct Mappings {
    layout: Layout,
    all: Vec<Mapping>,
}

/// One table of memory of one process.
pub struct Mapping {
    process: usize,
    userfault: Userfault,
    ranges: Vec<Placed>,
    gone: bool,
}

/// Where pages of the guest are in a process.
struct Placed {
    pages: Range<u64>,
    address: u64,
}

impl Mapping {
    /// Checks what a process has announced, and registers it: from then on whoever touches it waits for its pages.
    pub fn register(process: usize, announced: Announcement, layout: &Layout) -> Result<Self, String> {
        let ranges = announced.ranges.iter().map(|range| placed(range, layout).ok_or(range));
        let ranges: Vec<Placed> = ranges
            .collect::<Result<_, _>>()
            .map_err(|range| format!("{range:x?} is not memory of the guest"))?;
        let userfault = Userfault::received(announced.fd.ok_or("no userfaultfd came with it")?);
        userfault
            .agree()
            .map_err(|error| format!("no userfaultfd for shared memory came with it: {error}"))?;
        let mapping = Self { process, userfault, ranges, gone: false };
        for range in &mapping.ranges {
            let registered = mapping.userfault.register(mapping.addresses(range, layout));
            registered.map_err(|error| format!("its memory cannot be registered: {error}"))?;
        }
        Ok(mapping)
    }

    fn addresses(&self, range: &Placed, layout: &Layout) -> Range<u64> {
        let bytes = (range.pages.end - range.pages.start) * layout.page_size().bytes() as u64;
        range.address..range.address + bytes
    }

    fn page_at(&self, address: u64, layout: &Layout) -> Option<u64> {
        let size = layout.page_size().bytes() as u64;
        self.ranges.iter().find_map(|range| {
            let page = range.pages.start + address.checked_sub(range.address)? / size;
            range.pages.contains(&page).then_some(page)
        })
    }

    /// Finds out whether it is gone. Whatever page is there already is as it is to be, so it may be mapped.
    fn look(&mut self, layout: &Layout) -> Result<(), Failure> {
        let first = self.ranges.first().map(|range| range.pages.start);
        first.map_or(Ok(()), |page| self.proceed(page..page + 1, layout).map(drop))
    }

    /// Maps pages here that are there; answers whether the first was a hole.
    fn proceed(&mut self, pages: Range<u64>, layout: &Layout) -> Result<bool, Failure> {
        let size = layout.page_size().bytes() as u64;
        let mut hole = false;
        for range in &self.ranges {
            let (mut at, end) = (pages.start.max(range.pages.start), pages.end.min(range.pages.end));
            let address = |page: u64| range.address + (page - range.pages.start) * size;
            let mut patience = PATIENCE;
            while at < end && !self.gone {
                match self.userfault.proceed(address(at)..address(end))? {
                    Continued::Mapped(0) if patience == 0 => {
                        return Err(Failure::of("the kernel does not map a page that is there"));
                    }
                    Continued::Mapped(0) => patience -= 1,
                    Continued::Mapped(bytes) => at += bytes / size,
                    Continued::Before => at += 1,
                    Continued::Hole => {
                        hole |= at == pages.start;
                        at += 1;
                    }
                    Continued::Gone => self.gone = true,
                }
            }
        }
        Ok(hole)
    }
}

/// The pages that a range is said to have, if it has any.
fn placed(range: &Mapped, layout: &Layout) -> Option<Placed> {
    let size = layout.page_size().bytes() as u64;
    let Mapped { guest, address, size: bytes } = *range;
    let aligned = [guest, address, bytes].iter().all(|number| number.is_multiple_of(size));
    if !aligned || bytes == 0 || address.checked_add(bytes).is_none() {
        return None;
    }
    let (first, last) = (layout.page_of(guest)?, layout.page_of(guest.checked_add(bytes - size)?)?);
    let pages = bytes / size;
    (last.checked_sub(first)? + 1 == pages).then_some(Placed { pages: first..first + pages, address })
}

impl Mappings {
    /// None yet.
    pub fn new(layout: Layout) -> Self {
        Self { layout, all: Vec::new() }
    }

    /// The guest's memory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether a process may have one more. One that is still there is never let go of: whoever waited in it would go on
    /// without its page. Indices of mappings change.
    pub fn has_room(&mut self, process: usize) -> Result<bool, Failure> {
        let of_process = |each: &&mut Mapping| each.process == process;
        for mapping in self.all.iter_mut().filter(of_process) {
            mapping.look(&self.layout)?;
        }
        self.forget_gone();
        Ok(self.all.iter().filter(|each| each.process == process).count() < MOST)
    }

    /// One more.
    pub fn add(&mut self, mapping: Mapping) {
        self.all.push(mapping);
    }

    /// The userfaultfds, in order.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|mapping| mapping.userfault.as_fd())
    }

    /// The pages that are waited for in a mapping, some of them.
    pub fn faults(&self, index: usize) -> Result<Vec<u64>, Failure> {
        let Some(mapping) = self.all.get(index) else { return Ok(Vec::new()) };
        let mut addresses = Vec::new();
        mapping.userfault.faults(&mut addresses)?;
        Ok(addresses.into_iter().filter_map(|address| mapping.page_at(address, &self.layout)).collect())
    }

    /// Maps a page that somebody waits for in one mapping, there and everywhere; answers false where it is a hole.
    pub fn resolve(&mut self, index: usize, page: u64) -> Result<bool, Failure> {
        let size = self.layout.page_size().bytes() as u64;
        let Some(mapping) = self.all.get_mut(index) else { return Ok(true) };
        if mapping.proceed(page..page + 1, &self.layout)? {
            return Ok(false);
        }
        for range in mapping.ranges.iter().filter(|range| range.pages.contains(&page)) {
            let address = range.address + (page - range.pages.start) * size;
            // Who waited may have come after it was mapped; where it is gone nobody waits.
            let _ = mapping.userfault.wake(address..address + size);
        }
        self.publish(page, 1).map(|()| true)
    }

    /// Maps pages everywhere: those that `present` has a bit for, from `first` on.
    pub fn publish(&mut self, first: u64, present: u64) -> Result<(), Failure> {
        for mapping in &mut self.all {
            let (mut at, mut left) = (first, present);
            while left != 0 {
                let skip = left.trailing_zeros();
                (at, left) = (at + u64::from(skip), left >> skip);
                let run = left.trailing_ones();
                mapping.proceed(at..at + u64::from(run), &self.layout)?;
                at += u64::from(run);
                left = left.checked_shr(run).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Forgets address spaces and mappings that are gone.
    pub fn forget_gone(&mut self) {
        self.all.retain(|mapping| !mapping.gone);
    }

    /// All pages are there: nobody has to wait any more.
    pub fn unregister(&mut self) {
        for mapping in self.all.drain(..) {
            for range in &mapping.ranges {
                let addresses = mapping.addresses(range, &self.layout);
                // What is gone needs none.
                let _ = mapping.userfault.unregister(addresses.clone());
                // The kernel wakes those who wait before it lets go of the mapping: who is quick comes to wait again, and
                // would for ever.
                let _ = mapping.userfault.wake(addresses);
            }
        }
    }
}
