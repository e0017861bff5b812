//! Which accounts a Maildir URL stands for.
//!
//! In comes a [`MaildirUrl`], out go the accounts that exist under it now, and the directories in which they were looked for
//! (the follower watches those to see users come and go). Rules:
//!
//! - A directory without `cur/` is no Maildir: skipped, with a notice.
//! - What cannot be read is listed as unread; its accounts are not gone. Out of descriptors or memory fails the whole call.
//! - Users may own what is below the fixed part of a template. A symlink there is followed only when root or we made it, so that
//!   nobody gets another's mail into their own backup. The path of a single Maildir is the administrator's, and followed.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::source::{Account, Accounts, Notice, Notices, SourceError};
use crate::url::{Captured, Level, MaildirUrl, Part};

/// The places where a URL's accounts can be.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    base: PathBuf,
    levels: Vec<Level>,
    /// Given for a single Maildir, else made from what the levels capture.
    address: Option<Vec<u8>>,
}

/// What one look at the tree found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub accounts: Accounts,
    /// Directories in which an account could appear, each with the depth of what is looked for inside.
    pub above: Vec<(PathBuf, usize)>,
}

impl Tree {
    pub fn new(url: &MaildirUrl) -> Self {
        match url {
            MaildirUrl::Tree(template) => {
                Self { base: template.base.clone(), levels: template.levels.clone(), address: None }
            }
            // Its parent is the place to see it come and go; a path that ends in `..` has none.
            MaildirUrl::One { path, account } => match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Self {
                    base: if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() },
                    levels: vec![Level(vec![Part::Text(name.as_bytes().to_vec())])],
                    address: Some(account.clone()),
                },
                _ => Self { base: path.clone(), levels: Vec::new(), address: Some(account.clone()) },
            },
        }
    }

    /// The directory that must exist.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Whether a name at this depth (see [`Found::above`]) can lead to an account.
    pub fn may_hold(&self, depth: usize, name: &[u8]) -> bool {
        match self.levels.get(depth) {
            // Below a candidate that is not a Maildir yet, the one thing waited for:
            None => name == b"cur",
            Some(level) => level.capture(name, &mut Captured::default()),
        }
    }

    /// Looks at the disk.
    pub fn find(&self, notices: &mut Notices<'_>) -> Result<Found, SourceError> {
        fs::metadata(&self.base).map_err(|e| SourceError::io("looking for accounts in", &self.base, e))?;
        let mut found = Found::default();
        self.descend(self.base.clone(), 0, &Captured::default(), &mut found, notices)?;
        found.accounts.found.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(found)
    }

    fn descend(
        &self,
        dir: PathBuf,
        depth: usize,
        captured: &Captured,
        found: &mut Found,
        notices: &mut Notices<'_>,
    ) -> Result<(), SourceError> {
        let Some(level) = self.levels.get(depth) else { return self.candidate(dir, captured, found, notices) };
        found.above.push((dir.clone(), depth));
        if let Some(name) = level.literal() {
            let below = dir.join(std::ffi::OsStr::from_bytes(name));
            return match fs::symlink_metadata(&below) {
                Ok(meta) if self.may_enter(&below, &meta, notices) => {
                    self.descend(below, depth + 1, captured, found, notices)
                }
                Ok(_) => Ok(()),
                Err(error) => unread_or_fatal(below, error, found, notices),
            };
        }
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(SourceError::io("looking for accounts in", &dir, error)),
            Err(error) => return unread_or_fatal(dir, error, found, notices),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    unread_or_fatal(dir.clone(), error, found, notices)?;
                    break;
                }
            };
            let name = entry.file_name().into_vec();
            let mut captured = captured.clone();
            // Names with a leading dot are the server's or the file system's own, as in `ls`.
            if name.starts_with(b".") || !level.capture(&name, &mut captured) {
                continue;
            }
            let below = entry.path();
            let enter = match entry.file_type() {
                Ok(kind) if kind.is_dir() => true,
                // Files beside the users' directories are nobody's mailbox.
                Ok(kind) if !kind.is_symlink() => false,
                _ => match fs::symlink_metadata(&below) {
                    Ok(meta) => self.may_enter(&below, &meta, notices),
                    Err(error) => {
                        unread_or_fatal(below.clone(), error, found, notices)?;
                        false
                    }
                },
            };
            if enter {
                self.descend(below, depth + 1, &captured, found, notices)?;
            }
        }
        Ok(())
    }

    fn may_enter(&self, path: &Path, meta: &fs::Metadata, notices: &mut Notices<'_>) -> bool {
        if !meta.is_symlink() {
            return meta.is_dir();
        }
        let ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
        if self.address.is_some() || ours {
            return true;
        }
        notices(Notice::new(path, format!("a symlink made by user {} is not followed", meta.uid())));
        false
    }

    fn candidate(
        &self,
        root: PathBuf,
        captured: &Captured,
        found: &mut Found,
        notices: &mut Notices<'_>,
    ) -> Result<(), SourceError> {
        match fs::symlink_metadata(root.join("cur")) {
            Ok(meta) if meta.is_dir() => {
                let address = self.address.clone().unwrap_or_else(|| captured.address());
                found.accounts.found.push(Account { address, root });
            }
            Ok(_) => notices(Notice::new(root, "not a Maildir: its cur is not a directory")),
            Err(error) if absent(&error) => {
                notices(Notice::new(&root, "not a Maildir: it has no cur/"));
                found.above.push((root, self.levels.len()));
            }
            Err(error) => return unread_or_fatal(root, error, found, notices),
        }
        Ok(())
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Errors of this process, not of the path: going on would report what exists as unreadable, a thousand times.
pub(super) fn exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

fn unread_or_fatal(
    path: PathBuf,
    error: io::Error,
    found: &mut Found,
    notices: &mut Notices<'_>,
) -> Result<(), SourceError> {
    if absent(&error) {
        return Ok(()); // went between two looks
    }
    if exhausted(&error) {
        return Err(SourceError::io("looking for accounts in", &path, error));
    }
    notices(Notice::new(&path, format!("cannot be read: {error}")));
    found.accounts.unread.push(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maildir::test_tree::TestTree;
    use crate::source::Presence;
    use std::os::unix::fs::symlink;

    fn find(url: &str, notices: &mut Vec<Notice>) -> Result<Found, SourceError> {
        let Ok(crate::url::Url::Maildir(url)) = url.parse() else { panic!("{url}") };
        Tree::new(&url).find(&mut |notice| notices.push(notice))
    }

    fn addresses(found: &Found) -> Vec<String> {
        found.accounts.found.iter().map(|a| String::from_utf8_lossy(&a.address).into_owned()).collect()
    }

    #[test]
    fn a_template_finds_users_and_tells_who_is_gone() {
        let tree = TestTree::new("accounts-template");
        for user in ["a.org/u1", "a.org/u2", "b.org/u1"] {
            tree.maildir(&format!("{user}/Maildir"));
        }
        fs::create_dir_all(tree.path.join("b.org/none/Maildir")).unwrap();
        fs::create_dir_all(tree.path.join("b.org/later")).unwrap();
        fs::write(tree.path.join("b.org/README"), "x").unwrap();
        let url = format!("maildir:{}/{{domain}}/{{user}}/Maildir", tree.path.display());
        let mut notices = Vec::new();
        let before = find(&url, &mut notices).unwrap();
        assert_eq!(addresses(&before), ["u1@a.org", "u1@b.org", "u2@a.org"]);
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(before.above.contains(&(tree.path.join("b.org/later"), 2)));
        assert!(before.above.contains(&(tree.path.join("b.org/none/Maildir"), 3)));

        fs::remove_dir_all(tree.path.join("a.org/u2")).unwrap();
        tree.maildir("b.org/none/Maildir");
        let after = find(&url, &mut notices).unwrap();
        assert_eq!(addresses(&after), ["none@b.org", "u1@a.org", "u1@b.org"]);
        assert_eq!(after.accounts.presence(&before.accounts.found[2]), Presence::Gone);
        assert_eq!(after.accounts.presence(&before.accounts.found[0]), Presence::Present);
    }

    #[test]
    fn one_maildir_may_be_missing_but_not_its_parent() {
        let tree = TestTree::new("accounts-one");
        let url = format!("maildir:{}/alice/Maildir?account=alice@x", tree.path.display());
        assert!(find(&url, &mut Vec::new()).is_err());
        tree.maildir("alice/Maildir");
        assert_eq!(addresses(&find(&url, &mut Vec::new()).unwrap()), ["alice@x"]);
        fs::rename(tree.path.join("alice/Maildir"), tree.path.join("alice/other")).unwrap();
        assert_eq!(find(&url, &mut Vec::new()).unwrap().accounts.found, []);
        symlink(tree.path.join("alice/other"), tree.path.join("alice/Maildir")).unwrap();
        assert_eq!(addresses(&find(&url, &mut Vec::new()).unwrap()), ["alice@x"]);
    }

    #[test]
    fn a_users_symlink_is_not_followed_and_roots_is() {
        let tree = TestTree::new("accounts-symlink");
        tree.maildir("victim");
        symlink(tree.path.join("victim"), tree.path.join("ours")).unwrap();
        symlink(tree.path.join("victim"), tree.path.join("theirs")).unwrap();
        symlink(tree.path.join("missing"), tree.path.join("dangling")).unwrap();
        let nobody = std::os::unix::fs::lchown(tree.path.join("theirs"), Some(65534), Some(65534));
        let mut notices = Vec::new();
        let found = find(&format!("maildir:{}/{{user}}", tree.path.display()), &mut notices).unwrap();
        assert!(addresses(&found).contains(&"ours".to_owned()));
        if nobody.is_ok() {
            assert_eq!(addresses(&found), ["ours", "victim"]);
            assert!(notices.iter().any(|n| n.what.contains("not followed")), "{notices:?}");
        }
    }
}
