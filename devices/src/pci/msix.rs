//! MSI-X: the vector table, the pending bits and the masks (PCI Local Bus 3.0, §6.8.2).
//!
//! ```text
//!   live = MSI-X enabled ∧ function not masked ∧ vector not masked
//!   live vector    eventfd ─► irqfd ─► interrupt controller     (routed to its message)
//!   silent vector  eventfd accumulates; its pending bit is "the eventfd is readable"
//! ```
//! Whoever raises an interrupt writes the eventfd and need not know about masks. A vector that goes live with its
//! eventfd readable fires at once, as the specification asks of a pending one.

use std::sync::Arc;

use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use super::address::BarIndex;
use super::spec::{MSIX_ENABLE, MSIX_ENTRY_SIZE, MSIX_FUNCTION_MASK, MSIX_MAX_VECTORS, MSIX_VECTOR_MASK};
use super::state::{MsixState, RestoreError};
use crate::platform::{MsiMessage, MsiVectors};
use crate::sys::readable;

/// One entry as the guest sees it: address low, address high, data, vector control.
#[derive(Clone, Copy)]
struct Entry {
    words: [u32; 4],
    routed: Option<MsiMessage>,
}

impl Entry {
    const MASKED: Self = Self { words: [0, 0, 0, MSIX_VECTOR_MASK], routed: None };

    fn message(&self) -> Option<MsiMessage> {
        let [low, high, data, control] = self.words;
        let address = u64::from(high) << 32 | u64::from(low);
        (control & MSIX_VECTOR_MASK == 0).then_some(MsiMessage { address, data })
    }
}

/// The MSI-X side of one function.
pub struct Msix {
    vectors: Arc<dyn MsiVectors>,
    entries: Vec<Entry>,
    control: u16,
}

impl Msix {
    /// MSI-X with all the vectors that `vectors` has (at least 1, at most 2,048), disabled and masked.
    pub fn new(vectors: Arc<dyn MsiVectors>) -> Self {
        let count = vectors.count().clamp(1, MSIX_MAX_VECTORS);
        Self { vectors, entries: vec![Entry::MASKED; usize::from(count)], control: 0 }
    }

    /// How many vectors the guest sees.
    pub fn count(&self) -> u16 {
        // Cannot truncate: made from a u16.
        self.entries.len() as u16
    }

    /// Bytes of the vector table.
    pub fn table_size(&self) -> u64 {
        u64::from(self.count()) * MSIX_ENTRY_SIZE
    }

    /// Bytes of the pending bit array.
    pub fn pba_size(&self) -> u64 {
        u64::from(self.count()).div_ceil(64) * 8
    }

    /// The body of the capability, and the bits of it that the guest may write.
    pub fn capability(&self, bar: BarIndex, table_offset: u32, pba_offset: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.count() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table_offset | u32::from(bar.number())).to_le_bytes());
        body[6..].copy_from_slice(&(pba_offset | u32::from(bar.number())).to_le_bytes());
        (body, (MSIX_ENABLE | MSIX_FUNCTION_MASK).to_le_bytes())
    }

    /// Takes the message control word that the guest has written.
    pub fn set_control(&mut self, control: u16) {
        let control = control & (MSIX_ENABLE | MSIX_FUNCTION_MASK);
        if control != self.control {
            self.control = control;
            for vector in 0..self.count() {
                self.update(vector);
            }
        }
    }

    /// The eventfd that raises `vector`; `None` where there is no such vector.
    pub fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        if vector < self.count() { self.vectors.eventfd(vector) } else { None }
    }

    /// Raises `vector`, if there is one of that number.
    pub fn trigger(&self, vector: u16) {
        if let Some(eventfd) = self.eventfd(vector)
            && let Err(error) = eventfd.write(1)
        {
            warn!(vector, %error, "an interrupt could not be raised");
        }
    }

    /// Reads the vector table; bytes beyond its end read as zero.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in positions(offset).zip(data) {
            *byte = self.word(at).map_or(0, |word| word.to_le_bytes()[at as usize % 4]);
        }
    }

    /// Writes the vector table, at any width and alignment, and re-routes the vectors that this changes.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        for (at, new) in positions(offset).zip(data) {
            let Some(entry) = self.entries.get_mut((at / MSIX_ENTRY_SIZE) as usize) else { break };
            let index = (at % MSIX_ENTRY_SIZE / 4) as usize;
            let mut bytes = entry.words[index].to_le_bytes();
            bytes[(at % 4) as usize] = *new;
            entry.words[index] = u32::from_le_bytes(bytes) & WRITABLE[index];
        }
        // Once per entry, after the whole store: half an address must never be routed.
        let last = offset.saturating_add((data.len() as u64).saturating_sub(1)) / MSIX_ENTRY_SIZE;
        for vector in offset / MSIX_ENTRY_SIZE..=last.min(u64::from(self.count()) - 1) {
            self.update(vector as u16);
        }
    }

    /// Reads the pending bits; bytes beyond their end read as zero.
    pub fn pba_read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in positions(offset).zip(data) {
            let pending = |bit: u64| {
                let vector = at.checked_mul(8).and_then(|first| u16::try_from(first + bit).ok());
                u8::from(vector.is_some_and(|vector| self.pending(vector))) << bit
            };
            *byte = (0..8).map(pending).sum();
        }
    }

    /// Masks and forgets everything, pending interrupts too.
    pub fn reset(&mut self) {
        self.control = 0;
        for vector in 0..self.count() {
            self.entries[usize::from(vector)].words = Entry::MASKED.words;
            self.update(vector);
            if let Some(eventfd) = self.vectors.eventfd(vector)
                && readable(eventfd)
            {
                // Nothing to do about an error: the next raise makes it readable again.
                let _ = eventfd.read();
            }
        }
    }

    /// The table and what waits behind its masks, as they are saved.
    pub fn save(&self) -> MsixState {
        MsixState {
            entries: self.entries.iter().map(|entry| entry.words).collect(),
            pending: (0..self.count()).filter(|vector| self.pending(*vector)).collect(),
        }
    }

    /// Puts a table back into one that is fresh. Nothing is routed before [`Msix::set_control`] says that MSI-X is on.
    ///
    /// # Errors
    /// Where it is not a table of this size.
    pub fn restore(&mut self, saved: &MsixState) -> Result<(), RestoreError> {
        let MsixState { entries, pending } = saved;
        if entries.len() != self.entries.len() {
            return Err(RestoreError::Vectors { saved: entries.len(), here: self.entries.len() });
        }
        if let Some(vector) = pending.iter().find(|vector| **vector >= self.count()) {
            return Err(RestoreError::Pending(*vector));
        }
        for (entry, words) in self.entries.iter_mut().zip(entries) {
            entry.words = *words;
            for (word, mask) in entry.words.iter_mut().zip(WRITABLE) {
                *word &= mask;
            }
        }
        for vector in pending {
            self.trigger(*vector);
        }
        Ok(())
    }

    fn word(&self, at: u64) -> Option<u32> {
        let entry = self.entries.get(usize::try_from(at / MSIX_ENTRY_SIZE).ok()?)?;
        Some(entry.words[(at % MSIX_ENTRY_SIZE / 4) as usize])
    }

    fn pending(&self, vector: u16) -> bool {
        let silent = self.entries.get(usize::from(vector)).is_some_and(|entry| entry.routed.is_none());
        silent && self.vectors.eventfd(vector).is_some_and(readable)
    }

    /// Routes `vector` by what is now in the table and in the control word.
    fn update(&mut self, vector: u16) {
        let live = self.control == MSIX_ENABLE;
        let entry = &mut self.entries[usize::from(vector)];
        let wanted = entry.message().filter(|_| live);
        if wanted == entry.routed {
            return;
        }
        match self.vectors.route(vector, wanted) {
            Ok(()) => entry.routed = wanted,
            Err(error) => warn!(vector, %error, "an interrupt could not be routed"),
        }
    }
}

/// The offsets from `offset` on; they end where they would wrap.
fn positions(offset: u64) -> impl Iterator<Item = u64> {
    offset..=u64::MAX
}

/// The bits of each word of an entry that the guest may change.
const WRITABLE: [u32; 4] = [!0b11, !0, !0, MSIX_VECTOR_MASK];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeVectors;

    const ADDRESS: u64 = 0x1_0808_0040;

    fn msix(count: u16) -> (Arc<FakeVectors>, Msix) {
        let vectors = Arc::new(FakeVectors::new(count));
        (Arc::clone(&vectors), Msix::new(vectors))
    }

    fn program(msix: &mut Msix, vector: u64, data: u32, control: u32) {
        let at = vector * MSIX_ENTRY_SIZE;
        msix.table_write(at, &ADDRESS.to_le_bytes());
        msix.table_write(at + 8, &data.to_le_bytes());
        msix.table_write(at + 12, &control.to_le_bytes());
    }

    fn pba(msix: &Msix) -> u64 {
        let mut data = [0; 8];
        msix.pba_read(0, &mut data);
        u64::from_le_bytes(data)
    }

    #[test]
    fn a_vector_is_routed_once_it_is_enabled_and_unmasked_everywhere() {
        let (vectors, mut msix) = msix(2);
        program(&mut msix, 1, 7, 0);
        assert_eq!(vectors.routed(1), None);
        msix.set_control(MSIX_ENABLE | MSIX_FUNCTION_MASK);
        assert_eq!(vectors.routed(1), None);
        msix.set_control(MSIX_ENABLE);
        assert_eq!(vectors.routed(1), Some(MsiMessage { address: ADDRESS, data: 7 }));
        assert_eq!(vectors.routed(0), None, "vector 0 is still masked");
        msix.table_write(MSIX_ENTRY_SIZE + 12, &[1]);
        assert_eq!(vectors.routed(1), None);
    }

    #[test]
    fn a_masked_interrupt_is_pending_until_it_is_unmasked() {
        let (_, mut msix) = msix(3);
        msix.set_control(MSIX_ENABLE);
        program(&mut msix, 2, 1, MSIX_VECTOR_MASK);
        assert_eq!(pba(&msix), 0);
        msix.trigger(2);
        assert_eq!(pba(&msix), 0b100);
        program(&mut msix, 2, 1, 0);
        assert_eq!(pba(&msix), 0, "a routed vector has fired");
    }

    #[test]
    fn a_64_bit_store_routes_a_whole_address() {
        let (vectors, mut msix) = msix(1);
        msix.set_control(MSIX_ENABLE);
        program(&mut msix, 0, 1, 0);
        let before = vectors.routings();
        let moved = ADDRESS + 0x1_0000_1000;
        msix.table_write(0, &moved.to_le_bytes());
        assert_eq!(vectors.routed(0).unwrap().address, moved);
        assert_eq!(vectors.routings(), before + 1);
    }

    #[test]
    fn an_unchanged_entry_is_not_routed_again() {
        let (vectors, mut msix) = msix(1);
        msix.set_control(MSIX_ENABLE);
        program(&mut msix, 0, 1, 0);
        let before = vectors.routings();
        program(&mut msix, 0, 1, 0);
        msix.set_control(MSIX_ENABLE);
        assert_eq!(vectors.routings(), before);
    }

    #[test]
    fn any_width_at_any_offset_reads_and_writes_within_the_table() {
        let (_, mut msix) = msix(2);
        for len in 0..=8 {
            for offset in (0..64).chain([u64::MAX - 8, u64::MAX / 2]) {
                let mut data = vec![0xff; len];
                msix.table_write(offset, &data);
                msix.table_read(offset, &mut data);
                msix.pba_read(offset, &mut data);
            }
        }
        let mut entry = [0; 16];
        msix.table_read(16, &mut entry);
        assert_eq!(entry, [0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0]);
        msix.table_read(32, &mut entry);
        assert_eq!(entry, [0; 16]);
    }

    #[test]
    fn a_vector_that_is_not_there_cannot_be_raised() {
        let (vectors, msix) = msix(1);
        msix.trigger(1);
        msix.trigger(0xffff);
        assert!(msix.eventfd(1).is_none());
        assert_eq!(vectors.raised(0), 0);
    }

    #[test]
    fn a_reset_masks_all_and_drops_what_was_pending() {
        let (vectors, mut msix) = msix(1);
        msix.set_control(MSIX_ENABLE);
        program(&mut msix, 0, 1, 0);
        msix.trigger(0);
        msix.reset();
        assert_eq!(vectors.routed(0), None);
        assert_eq!(pba(&msix), 0);
    }

    #[test]
    fn a_restored_table_routes_and_keeps_what_was_pending() {
        let (_, mut saved) = msix(3);
        saved.set_control(MSIX_ENABLE);
        program(&mut saved, 1, 7, 0);
        program(&mut saved, 2, 8, MSIX_VECTOR_MASK);
        saved.trigger(2);
        let (vectors, mut restored) = msix(3);
        restored.restore(&saved.save()).unwrap();
        assert_eq!(vectors.routed(1), None, "not before the control word is there");
        restored.set_control(MSIX_ENABLE);
        assert_eq!(vectors.routed(1), Some(MsiMessage { address: ADDRESS, data: 7 }));
        assert_eq!(restored.save(), saved.save());
        assert_eq!(pba(&restored), 0b100);
        assert!(msix(2).1.restore(&saved.save()).is_err());
        let wrong = MsixState { pending: vec![3], ..saved.save() };
        assert_eq!(msix(3).1.restore(&wrong), Err(RestoreError::Pending(3)));
    }

    #[test]
    fn the_capability_says_where_table_and_pending_bits_are() {
        let (_, msix) = msix(4);
        let (body, writable) = msix.capability(BarIndex::ZERO, 0x4000, 0x5000);
        assert_eq!(body, [3, 0, 0, 0x40, 0, 0, 0, 0x50, 0, 0]);
        assert_eq!(writable, [0, 0xc0]);
        assert_eq!((msix.table_size(), msix.pba_size()), (64, 8));
    }
}
