//! Who maps guest memory: every address space in which pages are waited for, and must be mapped.
//!
//! What the machine does not announce, memory that devices bring along, is there before the guest runs: nobody waits for it,
//! and where others announce it nothing is registered.

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
    /// Pages that may be missing while the guest runs: those that the machine waits for.
    late: Vec<Range<u64>>,
    all: Vec<Mapping>,
}

/// One table of memory of one process.
struct Mapping {
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

/// What of a range may be missing; an error where it is only partly that, or none that could be.
fn placed(range: &Mapped, layout: &Layout, late: &[Range<u64>]) -> Result<Option<Placed>, ()> {
    let size = layout.page_size().bytes() as u64;
    let Mapped { guest, address, size: bytes } = *range;
    let aligned = [guest, address, bytes].iter().all(|number| number.is_multiple_of(size));
    let end = guest.checked_add(bytes).filter(|_| address.checked_add(bytes).is_some()).ok_or(())?;
    if !aligned || bytes == 0 {
        return Err(());
    }
    let touched = late.iter().find(|pages| {
        // Ranges of late pages lie in one region each.
        let begins = layout.gpa_of(pages.start).unwrap_or_default();
        guest < begins + (pages.end - pages.start) * size && begins < end
    });
    let Some(touched) = touched else { return Ok(None) };
    let first = layout.page_of(guest).ok_or(())?;
    let pages = first..first + bytes / size;
    let within = touched.start <= pages.start && pages.end <= touched.end;
    if within { Ok(Some(Placed { pages, address })) } else { Err(()) }
}

impl Mappings {
    /// None yet.
    pub fn new(layout: Layout) -> Self {
        let size = layout.page_size().bytes() as u64;
        let mut next = 0;
        let regions = layout.regions().iter().map(|region| {
            let first = next;
            next += region.size / size;
            first..next
        });
        Self { late: regions.collect(), layout, all: Vec::new() }
    }

    /// Registers what the machine has announced. Only that may be missing from now on; answers all other pages.
    pub fn register_machine(&mut self, announced: Announcement) -> Result<Vec<Range<u64>>, String> {
        self.register(0, announced)?;
        let announced = self.all.iter().flat_map(|mapping| &mapping.ranges);
        let mut late: Vec<_> = announced.map(|range| range.pages.clone()).collect();
        late.sort_by_key(|pages| pages.start);
        let (mut rest, mut next) = (Vec::new(), 0);
        for pages in &late {
            rest.push(next..pages.start);
            next = next.max(pages.end);
        }
        rest.push(next..self.layout.pages());
        self.late = late;
        Ok(rest)
    }

    /// Checks what a process has announced, and registers what of it may be missing: from then on whoever touches that
    /// waits for its pages.
    pub fn register(&mut self, process: usize, announced: Announcement) -> Result<(), String> {
        let mut ranges = Vec::with_capacity(announced.ranges.len());
        for range in &announced.ranges {
            let placed = placed(range, &self.layout, &self.late);
            ranges.extend(placed.map_err(|()| format!("{range:x?} is not memory of the guest"))?);
        }
        let userfault = Userfault::received(announced.fd.ok_or("no userfaultfd came with it")?);
        userfault
            .agree()
            .map_err(|error| format!("no userfaultfd for shared memory came with it: {error}"))?;
        let mapping = Mapping { process, userfault, ranges, gone: false };
        for range in &mapping.ranges {
            let registered = mapping.userfault.register(mapping.addresses(range, &self.layout));
            registered.map_err(|error| format!("its memory cannot be registered: {error}"))?;
        }
        self.all.push(mapping);
        Ok(())
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
