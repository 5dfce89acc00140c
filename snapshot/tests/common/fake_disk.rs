//! A file system that remembers every operation, so that a test can say what a crash after any of them leaves.
//!
//! What is on the disk after a crash: of each file all that was written before its last sync, and any of what was written after; of
//! each directory all changes before its last sync, and any of those after it. That is less than what real file systems promise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use granule_snapshot::directory::{Disk, Rename};
use granule_snapshot::file::{Buffer, ReadAt, WriteAt};

use super::Numbers;

#[derive(Clone, Debug)]
pub enum Op {
    Write { file: usize, bytes: Vec<u8>, offset: u64 },
    SetLength { file: usize, length: u64 },
    Sync { file: usize },
    Create { path: PathBuf, file: usize },
    CreateDirectory { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, how: Rename },
    Remove { path: PathBuf },
    RemoveDirectory { path: PathBuf },
    SyncDirectory { path: PathBuf },
}

/// Names and what they stand for; files by number.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<PathBuf, Option<usize>>);

impl Tree {
    fn children(&self, directory: &Path) -> Vec<PathBuf> {
        self.0.keys().filter(|path| path.parent() == Some(directory)).cloned().collect()
    }

    fn take(&mut self, path: &Path) -> Vec<(PathBuf, Option<usize>)> {
        let inside = |known: &&PathBuf| known.starts_with(path);
        let paths: Vec<PathBuf> = self.0.keys().filter(inside).cloned().collect();
        let rest = |known: &PathBuf| known.strip_prefix(path).unwrap().to_owned();
        paths.iter().map(|known| (rest(known), self.0.remove(known).unwrap())).collect()
    }

    fn put(&mut self, path: &Path, tree: Vec<(PathBuf, Option<usize>)>) {
        for (rest, node) in tree {
            let whole = if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) };
            self.0.insert(whole, node);
        }
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        let exists = |path: &Path| if path == Path::new("/") { true } else { self.0.contains_key(path) };
        match op {
            Op::Create { path, file } => {
                if exists(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                if !exists(path.parent().unwrap()) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                self.0.insert(path.clone(), Some(*file));
            }
            Op::CreateDirectory { path } if exists(path) => return Err(io::ErrorKind::AlreadyExists.into()),
            Op::CreateDirectory { path } => {
                self.0.insert(path.clone(), None);
            }
            Op::Rename { from, to, how } => {
                if !exists(from) || (*how == Rename::Exchange && !exists(to)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if *how == Rename::New && exists(to) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let (moved, other) = (self.take(from), self.take(to));
                self.put(to, moved);
                if *how == Rename::Exchange {
                    self.put(from, other);
                }
            }
            Op::Remove { path } => {
                self.0.remove(path).ok_or(io::ErrorKind::NotFound)?;
            }
            Op::RemoveDirectory { path } if !self.children(path).is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            Op::RemoveDirectory { path } => {
                self.0.remove(path).ok_or(io::ErrorKind::NotFound)?;
            }
            Op::Write { .. } | Op::SetLength { .. } | Op::Sync { .. } | Op::SyncDirectory { .. } => {}
        }
        Ok(())
    }

    /// The directory whose names an operation changes.
    fn directory(op: &Op) -> Option<&Path> {
        match op {
            Op::Create { path, .. }
            | Op::CreateDirectory { path }
            | Op::Rename { from: path, .. }
            | Op::Remove { path }
            | Op::RemoveDirectory { path } => path.parent(),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Journal {
    ops: Vec<Op>,
    tree: Tree,
    files: Vec<Rc<Buffer>>,
    /// Operations left until the disk is full, if ever.
    until_full: Option<usize>,
}

/// The file system; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk(Rc<RefCell<Journal>>);

pub struct FakeFile {
    disk: FakeDisk,
    number: usize,
    content: Rc<Buffer>,
}

impl FakeDisk {
    pub fn fail_after(&self, operations: usize) {
        self.0.borrow_mut().until_full = Some(operations);
    }

    pub fn operations(&self) -> usize {
        self.0.borrow().ops.len()
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.borrow().tree.0.keys().cloned().collect()
    }

    /// Notes an operation that changes the disk; fails, once, when that was asked for.
    fn note(&self, op: Op) -> io::Result<()> {
        let mut journal = self.0.borrow_mut();
        match &mut journal.until_full {
            Some(0) => {
                journal.until_full = None;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        journal.tree.apply(&op)?;
        journal.ops.push(op);
        Ok(())
    }

    /// Writes to a real directory what a crash after `count` operations may leave. `chance` in 8: how likely each operation
    /// that was not synced is there all the same.
    pub fn crash(&self, count: usize, chance: u64, numbers: &mut Numbers, root: &Path) {
        let journal = self.0.borrow();
        let ops = &journal.ops[..count];
        let mut tree = Tree::default();
        let mut files: Vec<Vec<u8>> = vec![Vec::new(); journal.files.len()];
        for (index, op) in ops.iter().enumerate() {
            let later = &ops[index..];
            let safe = match op {
                Op::Write { file, .. } | Op::SetLength { file, .. } => {
                    later.iter().any(|later| matches!(later, Op::Sync { file: synced } if synced == file))
                }
                _ => {
                    let directory = Tree::directory(op);
                    let synced = |later: &Op| matches!(later, Op::SyncDirectory { path } if Some(path.as_path()) == directory);
                    later.iter().any(synced)
                }
            };
            if !safe && numbers.below(8) >= chance {
                continue;
            }
            match op {
                Op::Write { file, bytes, offset } => {
                    let (content, start) = (&mut files[*file], *offset as usize);
                    content.resize(content.len().max(start + bytes.len()), 0);
                    content[start..start + bytes.len()].copy_from_slice(bytes);
                }
                Op::SetLength { file, length } => files[*file].resize(*length as usize, 0),
                // What it needs may have been lost, too.
                _ => drop(tree.apply(op)),
            }
        }
        for (path, node) in &tree.0 {
            let real = root.join(path.strip_prefix("/").unwrap());
            if !real.parent().unwrap().exists() {
                continue;
            }
            match node {
                None => fs::create_dir(real).unwrap(),
                Some(file) => fs::write(real, &files[*file]).unwrap(),
            }
        }
    }
}

impl Disk for FakeDisk {
    type File = FakeFile;
    type Lock = ();

    fn list(&self, directory: &Path) -> io::Result<Option<Vec<String>>> {
        let journal = self.0.borrow();
        if !journal.tree.0.contains_key(directory) {
            return Ok(None);
        }
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(Some(journal.tree.children(directory).into_iter().map(name).collect()))
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.note(Op::CreateDirectory { path: directory.to_owned() })
    }

    fn create(&self, path: &Path) -> io::Result<FakeFile> {
        let number = self.0.borrow().files.len();
        self.note(Op::Create { path: path.to_owned(), file: number })?;
        let content = Rc::new(Buffer::default());
        self.0.borrow_mut().files.push(Rc::clone(&content));
        Ok(FakeFile { disk: self.clone(), number, content })
    }

    fn lock(&self, directory: &Path) -> io::Result<Option<()>> {
        self.list(directory)?.map(|_| Some(())).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        self.note(Op::Rename { from: from.to_owned(), to: to.to_owned(), how })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note(Op::Remove { path: path.to_owned() })
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.note(Op::RemoveDirectory { path: directory.to_owned() })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.note(Op::SyncDirectory { path: directory.to_owned() })
    }
}

impl ReadAt for FakeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.content.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.content.length()
    }
}

impl WriteAt for FakeFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.note(Op::Write { file: self.number, bytes: bytes.to_vec(), offset })?;
        self.content.write_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.note(Op::SetLength { file: self.number, length })?;
        self.content.set_length(length)
    }

    fn clear(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_at(&vec![0; length as usize], offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.note(Op::Sync { file: self.number })
    }
}
