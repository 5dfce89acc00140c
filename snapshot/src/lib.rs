//! What a snapshot is, on disk and on the wire.
//!
//! ```text
//!   DIR/manifest.json   what this is: format, architecture, page size, MTE level, regions, sizes, checksums, parent
//!   DIR/config.json     the VM's configuration, as the API has it; people and runtimes edit it
//!   DIR/state.json      one (kind, id, version, payload) per component
//!   DIR/memory          guest memory, region after region, raw and sparse
//!   DIR/pages           of every page: raw (and its checksum), zero, or as in the parent
//!   DIR/tags            of every page: its tags, packed, run-length coded or of one kind; pages without tags take no room
//! ```
//!
//! `docs/snapshot-format.md` is the exact description. From below:
//!
//! | module | holds |
//! |---|---|
//! | [`layout`] | page sizes, and which guest addresses lie where in `memory` |
//! | [`tags`], [`data`] | the codecs of a block of 64 pages |
//! | [`block_file`] | the container of `pages` and `tags`: blocks, found by number, each with its checksum |
//! | [`chunk`] | the same blocks on the migration wire, with the raw pages after them |
//! | [`memory`] | writing the three memory files in any page order; reading one page through a chain of diffs; merging |
//! | [`manifest`], [`state`] | the two JSON files that the project writes itself |
//! | [`directory`] | a directory that is there whole or not at all |
//! | [`inspect`] | statistics and verification, offline |
//!
//! Knows nothing of KVM, processes and the API. All that is read from a file or the wire is an allegation until
//! checked; nothing is allocated by its size.

pub mod block_file;
pub mod chunk;
pub mod data;
pub mod directory;
pub mod file;
pub mod inspect;
pub mod layout;
pub mod manifest;
pub mod memory;
pub mod state;
pub mod tags;

/// The version of the format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
