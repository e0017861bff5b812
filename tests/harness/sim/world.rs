//! A simulated file system: names, files, operations in flight; and what a power cut makes of them.
//!
//! A directory's entries become stable by [`World::sync_dir`] alone. Cloning is cheap: files share their pages.

use super::inode::{Inode, Survival};
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Dir,
    File(u64),
}

type Names = BTreeMap<PathBuf, Node>;

/// A change of directories that is in the cache only.
#[derive(Clone)]
enum DirOp {
    MakeDir(PathBuf),
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf, u64),
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/") || path == Path::new(".")
}

impl DirOp {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::MakeDir(p) | Self::Create(p, _) | Self::Remove(p, _) => parent(p) == dir,
            Self::Rename(from, to, _) => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, names: &mut Names) {
        let mut forget = |path: &PathBuf, file: u64| {
            if names.get(path) == Some(&Node::File(file)) {
                names.remove(path);
            }
        };
        match self {
            Self::MakeDir(p) => drop(names.insert(p.clone(), Node::Dir)),
            Self::Create(p, file) => drop(names.insert(p.clone(), Node::File(*file))),
            Self::Rename(from, to, file) => {
                forget(from, *file);
                names.insert(to.clone(), Node::File(*file));
            }
            Self::Remove(p, file) => forget(p, *file),
        }
    }
}

/// What an operation in flight does.
#[derive(Clone)]
pub enum FlyingOp {
    Write { bytes: Arc<[u8]>, offset: u64, durable: bool },
    Sync,
}

/// An operation that was submitted and has not been reported.
#[derive(Clone)]
pub struct Flying {
    pub file: u64,
    pub op: FlyingOp,
}

/// See the module's text.
#[derive(Clone, Default)]
pub struct World {
    files: BTreeMap<u64, Arc<Inode>>,
    names: Arc<Names>,
    stable_names: Arc<Names>,
    log: Vec<DirOp>,
    pub flying: BTreeMap<u64, Flying>,
    next: u64,
}

pub fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl World {
    /// What a path stands for.
    pub fn look_up(&self, path: &Path) -> io::Result<Node> {
        if is_root(path) {
            return Ok(Node::Dir);
        }
        self.names.get(path).copied().ok_or_else(|| errno(libc::ENOENT))
    }

    fn directory(&self, path: &Path) -> io::Result<()> {
        match self.look_up(path)? {
            Node::Dir => Ok(()),
            Node::File(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    /// The file at a path.
    pub fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.look_up(path)? {
            Node::File(file) => Ok(file),
            Node::Dir => Err(errno(libc::EISDIR)),
        }
    }

    /// A file, to look at.
    pub fn inode(&self, file: u64) -> io::Result<&Inode> {
        self.files.get(&file).map(AsRef::as_ref).ok_or_else(|| errno(libc::EBADF))
    }

    /// A file, to change.
    pub fn inode_mut(&mut self, file: u64) -> io::Result<&mut Inode> {
        self.files.get_mut(&file).map(Arc::make_mut).ok_or_else(|| errno(libc::EBADF))
    }

    /// Makes an empty file that must not exist.
    pub fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.directory(parent(path))?;
        if self.look_up(path).is_ok() {
            return Err(errno(libc::EEXIST));
        }
        self.next += 1;
        let file = self.next;
        self.files.insert(file, Arc::new(Inode::default()));
        self.log_op(DirOp::Create(path.into(), file));
        Ok(file)
    }

    /// Puts a file there as if it had always been there.
    pub fn plant(&mut self, path: &Path, bytes: &[u8]) {
        let file = match self.file_at(path) {
            Ok(file) => file,
            Err(_) => {
                self.next += 1;
                self.next
            }
        };
        self.files.insert(file, Arc::new(Inode::stable(bytes)));
        Arc::make_mut(&mut self.names).insert(path.into(), Node::File(file));
        Arc::make_mut(&mut self.stable_names).insert(path.into(), Node::File(file));
        for dir in path.ancestors().skip(1).filter(|d| !is_root(d)) {
            Arc::make_mut(&mut self.names).insert(dir.into(), Node::Dir);
            Arc::make_mut(&mut self.stable_names).insert(dir.into(), Node::Dir);
        }
    }

    fn log_op(&mut self, op: DirOp) {
        op.apply(Arc::make_mut(&mut self.names));
        self.log.push(op);
    }

    /// Makes a directory and those above it.
    pub fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for d in dir.ancestors() {
            match self.look_up(d) {
                Ok(Node::Dir) => break,
                Ok(Node::File(_)) => return Err(errno(libc::ENOTDIR)),
                Err(_) => missing.push(d.to_path_buf()),
            }
        }
        for d in missing.into_iter().rev() {
            self.log_op(DirOp::MakeDir(d));
        }
        Ok(())
    }

    /// Replaces `to` by `from`.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file_at(from)?;
        self.directory(parent(to))?;
        if matches!(self.look_up(to), Ok(Node::Dir)) {
            return Err(errno(libc::EISDIR));
        }
        if from != to {
            self.log_op(DirOp::Rename(from.into(), to.into(), file));
        }
        Ok(())
    }

    /// Removes a name; handles keep the file.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let file = self.file_at(path)?;
        self.log_op(DirOp::Remove(path.into(), file));
        Ok(())
    }

    /// Names in a directory.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.directory(dir)?;
        let names = self.names.keys().filter(|p| parent(p) == dir);
        Ok(names.filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).collect())
    }

    /// All files with their paths.
    pub fn all_files(&self) -> Vec<(PathBuf, u64)> {
        let file = |(p, n): (&PathBuf, &Node)| match n {
            Node::File(file) => Some((p.clone(), *file)),
            Node::Dir => None,
        };
        self.names.iter().filter_map(file).collect()
    }

    /// Bytes that files occupy.
    pub fn used(&self) -> u64 {
        self.all_files().iter().filter_map(|(_, f)| self.files.get(f)).map(|i| i.cache.len()).sum()
    }

    /// Makes the entries of a directory stable.
    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.directory(dir)?;
        let mut kept: Vec<DirOp> = Vec::new();
        for op in std::mem::take(&mut self.log) {
            if !op.touches(dir) {
                kept.push(op);
                continue;
            }
            op.apply(Arc::make_mut(&mut self.stable_names));
            // A file that was moved out of another directory cannot be made there again by an older change.
            if let DirOp::Rename(from, _, file) = &op {
                kept.retain(|k| !matches!(k, DirOp::Create(p, f) | DirOp::Rename(_, p, f) if p == from && f == file));
            }
        }
        self.log = kept;
        Ok(())
    }

    /// Runs what is in flight, or some of it.
    fn land(&mut self, rng: &mut Rng, how: Survival) {
        let mut flying: Vec<Flying> = std::mem::take(&mut self.flying).into_values().collect();
        rng.shuffle(&mut flying);
        for f in flying {
            let happens = match how {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Random => rng.percent(50),
            };
            let Some(inode) = self.files.get_mut(&f.file).map(Arc::make_mut).filter(|_| happens) else { continue };
            match f.op {
                // Not reported yet, so also a durable write may still tear.
                FlyingOp::Write { bytes, offset, .. } => inode.write(&bytes, offset),
                FlyingOp::Sync => inode.sync(),
            }
        }
    }

    /// The same system after all processes died: the cache stays, operations in flight run or do not.
    pub fn after_process_death(&self, rng: &mut Rng) -> Self {
        let mut out = self.clone();
        out.land(rng, Survival::Random);
        out.drop_nameless();
        out
    }

    fn drop_nameless(&mut self) {
        let mut reachable: std::collections::BTreeSet<u64> = self.all_files().into_iter().map(|(_, f)| f).collect();
        for n in self.stable_names.values() {
            if let Node::File(f) = n {
                reachable.insert(*f);
            }
        }
        // A change of names that is not durable yet may be the one that a later power cut leaves.
        for op in &self.log {
            if let DirOp::Create(_, f) | DirOp::Rename(_, _, f) | DirOp::Remove(_, f) = op {
                reachable.insert(*f);
            }
        }
        self.files.retain(|f, _| reachable.contains(f));
    }

    /// The system after a power cut.
    pub fn after_power_cut(&self, rng: &mut Rng, how: Survival) -> Self {
        let mut before = self.clone();
        before.land(rng, how);
        let mut names = (*before.stable_names).clone();
        let n = before.log.len();
        let keep: Vec<bool> = match how {
            Survival::Nothing => vec![false; n],
            Survival::Everything => vec![true; n],
            Survival::Random => match rng.below(3) {
                // A journal: a prefix of all changes.
                0 => {
                    let k = rng.index(n + 1);
                    (0..n).map(|i| i < k).collect()
                }
                // Each directory has a journal of its own.
                1 => {
                    let mut open: BTreeMap<PathBuf, bool> = BTreeMap::new();
                    let dir = |op: &DirOp| match op {
                        DirOp::MakeDir(p) | DirOp::Create(p, _) | DirOp::Remove(p, _) | DirOp::Rename(_, p, _) => {
                            parent(p).to_path_buf()
                        }
                    };
                    let mut keep = |op| {
                        let open = open.entry(dir(op)).or_insert(true);
                        *open = *open && rng.percent(70);
                        *open
                    };
                    before.log.iter().map(&mut keep).collect()
                }
                // No order at all.
                _ => (0..n).map(|_| rng.percent(50)).collect(),
            },
        };
        for (op, _) in before.log.iter().zip(keep).filter(|(_, keep)| *keep) {
            op.apply(&mut names);
        }
        let all = names.clone();
        names.retain(|p, _| p.ancestors().skip(1).all(|d| is_root(d) || all.get(d) == Some(&Node::Dir)));
        let mut files = BTreeMap::new();
        for node in names.values() {
            if let Node::File(f) = node
                && let Some(inode) = before.files.get(f)
            {
                files.entry(*f).or_insert_with(|| Arc::new(inode.after_power_cut(rng, how)));
            }
        }
        let names = Arc::new(names);
        Self {
            files,
            names: names.clone(),
            stable_names: names,
            log: Vec::new(),
            flying: BTreeMap::new(),
            next: self.next,
        }
    }

    /// Changes, of contents and of names, that a power cut may take.
    pub fn unsynced(&self) -> usize {
        self.log.len()
            + self.all_files().iter().filter_map(|(_, f)| self.files.get(f)).map(|i| i.unsynced()).sum::<usize>()
    }
}
