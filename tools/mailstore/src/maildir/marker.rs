//! A folder's cheap change marker: four `stat` calls instead of reading the folder.
//!
//! In comes a folder directory, out goes a [`Marker`] that is kept beside what was read, as a short string. A scan skips the
//! folder when the marker it kept [vouches for](Marker::vouches_for) the folder's present one. Rules:
//!
//! - What a Maildir does to a message (deliver, flag, move, delete) renames, links or unlinks in `cur/` or `new/`, which moves
//!   that directory's mtime and ctime; keywords and UIDs are in `dovecot-keywords` and `dovecot-uidlist`. A message rewritten
//!   in place is not seen: Maildir forbids it, and a deep scan finds it.
//! - **Racy markers vouch for nothing.** The kernel stamps with its clock *tick* (1 to 10 ms, more over the network): a change in
//!   the same tick as the one that was seen leaves the same stamp. So a marker taken less than [`SETTLED_NS`] after its
//!   newest stamp is not trusted; the next scan reads the folder once more and takes a marker that is.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::flags::KEYWORDS_FILE;
use super::uidlist::UIDLIST_FILE;

/// A tick is at most 10 ms and FAT's stamps have 2 s; the latter covers both, and clocks of file servers that are a little late.
pub const SETTLED_NS: i64 = 2_000_000_000;

/// Twice the slowest tick: what changed longer ago than this has another stamp than what changes now.
const TICK_NS: i64 = 20_000_000;

/// What one `stat` says. All zero when there is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
}

/// A folder's state, as far as `stat` shows it. Not comparable with `==`: two equal racy markers prove nothing.
#[derive(Debug, Clone)]
pub struct Marker {
    /// `cur/`, `new/`, keywords, UIDs.
    stamps: [Stamp; 4],
    taken_ns: i64,
}

impl Marker {
    /// Takes the marker of the folder `name` below the open directory `at`; the empty name is `at` itself. An error when there
    /// is no `cur/`; the others may be missing.
    pub fn take(at: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let taken_ns = now_ns();
        let at = at.as_fd();
        let stamp = |part: &str, is_dir: bool| -> io::Result<Stamp> {
            let mut path = Vec::with_capacity(name.len() + 1 + part.len());
            if !name.is_empty() {
                path.extend_from_slice(name);
                path.push(b'/');
            }
            path.extend_from_slice(part.as_bytes());
            match rustix::fs::statat(at, path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_dir && FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                    Err(Errno::NOTDIR.into())
                }
                Ok(stat) => Ok(Stamp::new(&stat, is_dir)),
                Err(Errno::NOENT) if part != "cur" => Ok(Stamp::default()),
                Err(error) => Err(error.into()),
            }
        };
        Ok(Self {
            stamps: [
                stamp("cur", true)?,
                stamp("new", true)?,
                stamp(KEYWORDS_FILE, false)?,
                stamp(UIDLIST_FILE, false)?,
            ],
            taken_ns,
        })
    }

    /// Whether a folder in the state `now` still holds what was read when this marker was taken.
    pub fn vouches_for(&self, now: &Self) -> bool {
        self.age_ns() >= SETTLED_NS && self.stamps == now.stamps
    }

    /// Whether nothing moved in the folder from this marker, taken before reading it, to `after`.
    pub(super) fn held_until(&self, after: &Self) -> bool {
        self.age_ns() >= TICK_NS && self.stamps.iter().zip(&after.stamps).take(2).all(|(a, b)| a == b)
    }

    /// How old the newest stamp was when the marker was taken; negative when a clock is wrong, which counts as racy.
    fn age_ns(&self) -> i64 {
        let newest = self.stamps.iter().map(|stamp| stamp.modified_ns.max(stamp.changed_ns)).max().unwrap_or(0);
        self.taken_ns.saturating_sub(newest)
    }
}

impl Stamp {
    fn new(stat: &Stat, is_dir: bool) -> Self {
        Self {
            inode: stat.st_ino,
            // A directory's size says what it once held, and not on every file system.
            size: if is_dir { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
            modified_ns: ns(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            changed_ns: ns(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        }
    }
}

fn ns(seconds: i64, part: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(part)
}

fn now_ns() -> i64 {
    // A clock before 1970 makes every marker racy, which is right.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// `m1` (the version), the moment, then four times inode, size, mtime, ctime, in hexadecimal.
impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m1:{:x}", self.taken_ns)?;
        for s in &self.stamps {
            write!(f, ":{:x}.{:x}.{:x}.{:x}", s.inode, s.size, s.modified_ns, s.changed_ns)?;
        }
        Ok(())
    }
}

/// The text is not a marker of this version; read the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a folder marker")]
pub struct NotAMarker;

impl FromStr for Marker {
    type Err = NotAMarker;

    fn from_str(text: &str) -> Result<Self, NotAMarker> {
        let mut fields = text.strip_prefix("m1:").ok_or(NotAMarker)?.split([':', '.']);
        let mut unsigned = || u64::from_str_radix(fields.next()?, 16).ok();
        let mut marker = Self { stamps: [Stamp::default(); 4], taken_ns: unsigned().ok_or(NotAMarker)?.cast_signed() };
        for stamp in &mut marker.stamps {
            let mut field = || unsigned().ok_or(NotAMarker);
            *stamp = Stamp {
                inode: field()?,
                size: field()?,
                modified_ns: field()?.cast_signed(),
                changed_ns: field()?.cast_signed(),
            };
        }
        if fields.next().is_some() { Err(NotAMarker) } else { Ok(marker) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maildir::test_tree::TestTree;
    use std::fs;

    fn settled(mut marker: Marker) -> Marker {
        marker.taken_ns += SETTLED_NS;
        marker
    }

    #[test]
    fn a_marker_survives_its_string() {
        let tree = TestTree::new("marker-string");
        let dir = tree.maildir("m");
        let marker = settled(Marker::take(fs::File::open(&dir).unwrap(), b"").unwrap());
        let again: Marker = marker.to_string().parse().unwrap();
        assert!(again.vouches_for(&marker) && marker.vouches_for(&again));
        assert_eq!(marker.to_string(), again.to_string());
        for bad in
            ["", "m1", "m1:", "m2:0:0.0.0.0:0.0.0.0:0.0.0.0:0.0.0.0", "m1:0:0.0.0.0", &format!("{marker}:0"), "m1:é"]
        {
            assert!(bad.parse::<Marker>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fresh_marker_vouches_for_nothing_and_a_settled_one_does() {
        let tree = TestTree::new("marker-racy");
        let dir = fs::File::open(tree.maildir("m")).unwrap();
        let fresh = Marker::take(&dir, b"").unwrap();
        assert!(!fresh.vouches_for(&fresh.clone()));
        let old = settled(fresh);
        assert!(old.vouches_for(&Marker::take(&dir, b"").unwrap()));
    }

    #[test]
    fn every_kind_of_change_changes_the_marker() {
        let tree = TestTree::new("marker-changes");
        let path = tree.maildir("m");
        let dir = fs::File::open(&path).unwrap();
        let steps: [(&str, &dyn Fn()); 6] = [
            ("delivery", &|| drop(tree.deliver(&path, "1.a"))),
            ("seen", &|| fs::rename(path.join("new/1.a"), path.join("cur/1.a:2,")).unwrap()),
            ("flag", &|| fs::rename(path.join("cur/1.a:2,"), path.join("cur/1.a:2,S")).unwrap()),
            ("keywords", &|| fs::write(path.join(KEYWORDS_FILE), "0 a\n").unwrap()),
            ("uids", &|| fs::write(path.join(UIDLIST_FILE), "3 V1 N2\n").unwrap()),
            ("deletion", &|| fs::remove_file(path.join("cur/1.a:2,S")).unwrap()),
        ];
        for (what, step) in steps {
            let before = settled(Marker::take(&dir, b"").unwrap());
            std::thread::sleep(std::time::Duration::from_millis(12));
            step();
            assert!(!before.vouches_for(&Marker::take(&dir, b"").unwrap()), "{what}");
        }
        fs::remove_dir(path.join("cur")).unwrap();
        assert!(Marker::take(&dir, b"").is_err());
    }
}
