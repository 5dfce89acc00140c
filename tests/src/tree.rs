//! What a folder holds, as one value that can be compared between host and guest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// A folder's content: the path of each thing in it, and what it is.
pub type Tree = BTreeMap<String, String>;

/// Reads everything below `root`: a file is its size and the digest of its bytes, a link is where it points.
///
/// # Errors
/// The path at fault, and why.
pub fn read(root: &Path) -> Result<Tree, String> {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let at_fault = |error: io::Error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(at_fault)? {
            let path = entry.map_err(at_fault)?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            tree.insert(name, describe(&path).map_err(|error| format!("{}: {error}", path.display()))?);
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    Ok(tree)
}

fn describe(path: &Path) -> io::Result<String> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_symlink() {
        return Ok(format!("link to {}", fs::read_link(path)?.display()));
    }
    if kind.is_dir() {
        return Ok("folder".to_owned());
    }
    let bytes = fs::read(path)?;
    Ok(format!("{} bytes {:016x}", bytes.len(), digest(&bytes)))
}

/// FNV-1a of 64 bits: nobody here forges, bytes only get lost.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn files_folders_and_links_are_told_apart() {
        let folder = Folder::new();
        fs::create_dir(folder.file("a")).unwrap();
        fs::write(folder.file("a/b"), "x").unwrap();
        std::os::unix::fs::symlink("a/b", folder.file("c")).unwrap();
        let tree = read(folder.path()).unwrap();
        let lines: Vec<String> = tree.into_iter().map(|(name, what)| format!("{name}: {what}")).collect();
        assert_eq!(lines, ["a: folder", "a/b: 1 bytes af63f54c86021707", "c: link to a/b"]);
    }
}
