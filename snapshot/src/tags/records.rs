//! Walks through the records of a block: the one place that knows what their first bytes mean to a reader.

use super::runs::{self, Form};
use super::{COMMON, PACKED, SEPARATED, TagKind, TagsError};
use crate::layout::PageSize;

/// Walks through the records of a block: `visit(first page, pages, kind, packed tags, bytes)`. Gives the bytes used.
pub(super) fn records(
    bytes: &[u8],
    page_size: PageSize,
    pages: usize,
    parent: bool,
    mut visit: impl FnMut(usize, usize, TagKind, &[u8], usize),
) -> Result<usize, TagsError> {
    let mut tags = vec![0; page_size.packed_tags()];
    let (mut page, mut at) = (0, 0);
    while page < pages {
        let start = at;
        let record = *bytes.get(at).ok_or(TagsError::Short { page })?;
        at += 1;
        let many = usize::from(record & 0x3f) + 1;
        let (count, kind) = match record {
            0x00..=0x3f => (many, TagKind::Zero),
            0x40..=0x7f if parent => (many, TagKind::Inherited),
            0x81..=0x8f => (1, TagKind::Uniform(record & 0xf)),
            PACKED => {
                let end = at + tags.len();
                tags.copy_from_slice(bytes.get(at..end).ok_or(TagsError::Short { page })?);
                at = end;
                (1, TagKind::Packed)
            }
            0xa0..=0xaf => {
                let common = if record & COMMON == 0 {
                    None
                } else {
                    at += 1;
                    Some(*bytes.get(at - 1).ok_or(TagsError::Short { page })?)
                };
                let form = Form { separated: record & SEPARATED != 0, order: u32::from(record & 3), common };
                tags.fill(0);
                at += runs::read(&bytes[at..], form, &mut tags).ok_or(TagsError::Runs { page })?;
                (1, TagKind::Runs)
            }
            _ => return Err(TagsError::Record { record, page }),
        };
        if count > pages - page {
            return Err(TagsError::TooManyPages { record, page });
        }
        visit(page, count, kind, &tags, at - start);
        page += count;
    }
    Ok(at)
}

/// What one record of a block holds and takes, for statistics: `(pages, kind, bytes)`.
///
/// # Errors
/// As [`TagBlock::decode`](super::TagBlock::decode).
pub fn record_sizes(
    bytes: &[u8],
    page_size: PageSize,
    pages: usize,
    parent: bool,
) -> Result<Vec<(usize, TagKind, usize)>, TagsError> {
    let mut found = Vec::new();
    let used =
        records(bytes, page_size, pages, parent, |_, count, kind, _, size| found.push((count, kind, size)))?;
    if used < bytes.len() { Err(TagsError::Long { bytes: bytes.len() - used }) } else { Ok(found) }
}
