//! Looks at a snapshot offline: what it holds and what that takes, and whether every byte is as it was written.

use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

use crate::data::DataKind;
use crate::directory::{Chain, OpenError, Snapshot};
use crate::file::ReadAt;
use crate::layout::PAGES_PER_BLOCK;
use crate::memory::{MemoryError, MemoryLayer, Presence};
use crate::tags::{TagKind, record_sizes};

/// Pages of one kind, and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many.
    pub pages: u64,
    /// Bytes of the file that describe them. A byte that describes up to 64 neighbours counts once.
    pub bytes: u64,
}

/// What one snapshot of a chain holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Pages of memory.
    pub pages: u64,
    /// Pages whose data is in `memory`.
    pub raw: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Pages whose data the parent has.
    pub inherited: u64,
    /// Bytes of `pages`.
    pub pages_file: u64,
    /// Bytes of `tags`.
    pub tags_file: u64,
    /// Pages without tags.
    pub untagged: Count,
    /// Pages of one tag.
    pub uniform: Count,
    /// Pages as runs.
    pub runs: Count,
    /// Pages with packed tags.
    pub packed: Count,
    /// Pages whose tags the parent has.
    pub tags_inherited: Count,
    /// How many granules have which tag; inherited ones are not counted.
    pub histogram: [u64; 16],
}

impl Statistics {
    /// Counts what a layer holds.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn of<F: ReadAt>(layer: &mut MemoryLayer<F>) -> Result<Self, MemoryError> {
        let mut found = Self {
            pages: layer.layout().pages(),
            pages_file: layer.pages_file().size(),
            tags_file: layer.tags_file().map_or(0, |tags| tags.size()),
            ..Self::default()
        };
        found.count_data(layer)?;
        found.count_tags(layer)?;
        Ok(found)
    }

    fn count_data<F: ReadAt>(&mut self, layer: &mut MemoryLayer<F>) -> Result<(), MemoryError> {
        let mut described = 0;
        let blocks: Vec<u64> = layer.pages_file().numbers().collect();
        for block in blocks {
            for page in pages(layer, block) {
                described += 1;
                match layer.data_kind(page)? {
                    DataKind::Raw(_) => self.raw += 1,
                    DataKind::Zero => self.zero += 1,
                    DataKind::Inherited => self.inherited += 1,
                }
            }
        }
        let rest = if layer.is_diff() { &mut self.inherited } else { &mut self.zero };
        *rest += self.pages - described;
        Ok(())
    }

    fn count_tags<F: ReadAt>(&mut self, layer: &mut MemoryLayer<F>) -> Result<(), MemoryError> {
        let (layout, diff) = (layer.layout().clone(), layer.is_diff());
        let blocks: Vec<u64> = layer.tags_file().map_or(Vec::new(), |tags| tags.numbers().collect());
        let mut described = 0;
        let (mut bytes, mut packed) = (Vec::new(), vec![0; layout.page_size().packed_tags()]);
        for block in blocks {
            if let Some(tags) = layer.tags_file() {
                tags.read(block, &mut bytes).map_err(MemoryError::Tags)?;
            }
            let records = record_sizes(&bytes, layout.page_size(), layout.pages_in_block(block), diff);
            for (pages, kind, size) in records.map_err(|source| MemoryError::TagBlock { block, source })? {
                let count = match kind {
                    TagKind::Zero => &mut self.untagged,
                    TagKind::Uniform(_) => &mut self.uniform,
                    TagKind::Runs => &mut self.runs,
                    TagKind::Packed => &mut self.packed,
                    TagKind::Inherited => &mut self.tags_inherited,
                };
                count.pages += pages as u64;
                count.bytes += size as u64;
                described += pages as u64;
            }
            for page in pages(layer, block) {
                if layer.read_tags(page, &mut packed)? != Presence::Inherited {
                    for byte in &packed {
                        self.histogram[usize::from(byte & 0xf)] += 1;
                        self.histogram[usize::from(byte >> 4)] += 1;
                    }
                }
            }
        }
        let rest = self.pages - described;
        if diff && layer.tags_file().is_some() {
            self.tags_inherited.pages += rest;
        } else {
            self.untagged.pages += rest;
            self.histogram[0] += rest * layout.page_size().granules() as u64;
        }
        Ok(())
    }
}

fn pages<F: ReadAt>(layer: &MemoryLayer<F>, block: u64) -> std::ops::Range<u64> {
    let first = block * PAGES_PER_BLOCK;
    first..first + layer.layout().pages_in_block(block) as u64
}

/// Why a snapshot is not what was written.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Seen at opening.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its memory.
    #[error("memory of {path}")]
    Memory {
        /// Which snapshot of the chain.
        path: PathBuf,
        /// What.
        source: MemoryError,
    },
}

/// Reads every byte of a snapshot (not of its parents) and checks it. Gives whether `config.json` is as it was written.
///
/// # Errors
/// At the first that is not as it was written.
pub fn verify(snapshot: &Snapshot) -> Result<bool, VerifyError> {
    let (_, as_written) = snapshot.config()?;
    snapshot.state()?;
    let mut layer = snapshot.memory()?;
    let path = snapshot.directory().to_owned();
    layer.verify().map_err(|source| VerifyError::Memory { path, source })?;
    Ok(as_written)
}

/// Verifies every snapshot of a chain. Gives, for each, whether `config.json` is as it was written.
///
/// # Errors
/// At the first thing that is not as it was written.
pub fn verify_chain(chain: &Chain) -> Result<Vec<bool>, VerifyError> {
    chain.snapshots().iter().map(verify).collect()
}
