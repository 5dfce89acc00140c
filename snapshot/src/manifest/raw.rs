//! The manifest as it is in the file, and what must hold for it to be one.

use serde::{Deserialize, Serialize};

use super::{FileSum, MAX_PATH, MAX_TEXT, Manifest, ManifestError, Parent, SnapshotId, hex_sum};
use crate::layout::{Layout, PageSize, Region};

/// The shape on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    id: String,
    parent: Option<RawParent>,
    creator: String,
    created: u64,
    arch: String,
    page_size: u64,
    mte: Option<u8>,
    regions: Vec<Region>,
    files: RawFiles,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParent {
    id: String,
    path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFiles {
    #[serde(rename = "config.json")]
    config: RawSum,
    #[serde(rename = "state.json")]
    state: RawSum,
    memory: RawSize,
    pages: RawSum,
    tags: Option<RawSum>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSum {
    size: u64,
    crc32: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSize {
    size: u64,
}

impl From<&Manifest> for Raw {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { id, parent, creator, created, arch, mte, layout, config, state, pages, tags } =
            manifest;
        let sum = |file: &FileSum| RawSum { size: file.size, crc32: format!("{:08x}", file.sum) };
        Self {
            id: id.to_string(),
            parent: parent
                .as_ref()
                .map(|Parent { id, path }| RawParent { id: id.to_string(), path: path.clone() }),
            creator: creator.clone(),
            created: *created,
            arch: arch.clone(),
            page_size: layout.page_size().bytes() as u64,
            mte: *mte,
            regions: layout.regions().to_vec(),
            files: RawFiles {
                config: sum(config),
                state: sum(state),
                memory: RawSize { size: layout.bytes() },
                pages: sum(pages),
                tags: tags.as_ref().map(sum),
            },
        }
    }
}

impl Raw {
    /// Checks what a file says.
    pub(super) fn check(self) -> Result<Manifest, ManifestError> {
        let bad = |field, value: &dyn ToString| ManifestError::Value { field, value: value.to_string() };
        let id = |text: &String| SnapshotId::parse(text).ok_or_else(|| bad("id", text));
        let sum = |field, raw: &RawSum| match hex_sum(&raw.crc32) {
            Some(sum) => Ok(FileSum { size: raw.size, sum }),
            None => Err(bad(field, &raw.crc32)),
        };
        for (field, text) in [("creator", &self.creator), ("arch", &self.arch)] {
            if text.len() > MAX_TEXT {
                return Err(bad(field, &format!("of {} bytes", text.len())));
            }
        }
        let parent = match self.parent {
            Some(raw) if raw.path.is_empty() || raw.path.len() > MAX_PATH || raw.path.contains('\0') => {
                return Err(bad("parent path", &format!("of {} bytes", raw.path.len())));
            }
            Some(raw) => Some(Parent { id: id(&raw.id)?, path: raw.path }),
            None => None,
        };
        if self.mte.is_some_and(|level| level != 2 && level != 3) {
            return Err(bad("mte", &self.mte.unwrap_or_default()));
        }
        if self.mte.is_some() != self.files.tags.is_some() {
            return Err(bad("tags", &"that do not fit mte"));
        }
        let page_size =
            PageSize::from_bytes(self.page_size).ok_or_else(|| bad("page_size", &self.page_size))?;
        let layout = Layout::new(page_size, self.regions)?;
        if self.files.memory.size != layout.bytes() {
            return Err(bad("memory size", &self.files.memory.size));
        }
        Ok(Manifest {
            id: id(&self.id)?,
            parent,
            creator: self.creator,
            created: self.created,
            arch: self.arch,
            mte: self.mte,
            layout,
            config: sum("config.json sum", &self.files.config)?,
            state: sum("state.json sum", &self.files.state)?,
            pages: sum("pages sum", &self.files.pages)?,
            tags: self.files.tags.as_ref().map(|raw| sum("tags sum", raw)).transpose()?,
        })
    }
}
