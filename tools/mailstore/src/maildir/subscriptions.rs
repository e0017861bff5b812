//! The list of subscribed folders.
//!
//! In come the files a server keeps in the account's root, out goes the set of subscribed folder paths. Read are Dovecot's
//! `subscriptions`, version 2 (`V\t2`, then a line a folder with tabs between levels) and the plain version 1 (dots between
//! levels), and Courier's `courierimapsubscribed` (`INBOX.Sent`). Rules:
//!
//! - A name may be modified UTF-7 or UTF-8, depending on the server's settings; both spellings count as subscribed.
//! - A subscription to a folder that does not exist is no error: IMAP allows it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::folder;

/// Dovecot's file, and Courier's.
pub const FILES: [&str; 2] = ["subscriptions", "courierimapsubscribed"];

/// Hundreds of thousands of folders.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The subscribed folders of an account.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(HashSet<Vec<u8>>);

impl Subscriptions {
    /// Reads the files in the account's root; missing ones are no subscriptions.
    pub fn read(root: impl AsFd) -> io::Result<Self> {
        let mut all = Self::default();
        for name in FILES {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::openat(root.as_fd(), name, flags, Mode::empty()) {
                Ok(fd) => {
                    let mut text = Vec::new();
                    File::from(fd).take(FILE_BYTES_MAX).read_to_end(&mut text)?;
                    all.add(&text, name == "courierimapsubscribed");
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// Whether a folder path is subscribed.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(path)
    }

    fn add(&mut self, text: &[u8], courier: bool) {
        let version_2 = text.starts_with(b"V\t2");
        for line in text.split(|&b| b == b'\n').skip(usize::from(version_2)) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = if courier { line.strip_prefix(b"INBOX.").unwrap_or(line) } else { line };
            if line.is_empty() {
                continue;
            }
            if line.eq_ignore_ascii_case(folder::INBOX) {
                self.0.insert(folder::INBOX.to_vec());
                continue;
            }
            // Dots stand between levels in version 1 only; in version 2 a dot could be part of a name, but no Maildir++ folder
            // has one, so the same reading serves both.
            let dotted: Vec<u8> = if version_2 {
                unescape(line).into_iter().map(|b| if b == b'\t' { b'.' } else { b }).collect()
            } else {
                line.to_vec()
            };
            self.0.insert(folder::slashed(&dotted));
            self.0.insert(dotted.into_iter().map(|b| if b == b'.' { b'/' } else { b }).collect());
        }
    }
}

/// Dovecot's tab escaping: `\x01` and a letter. An escaped tab is part of a name; it is told apart no further, no folder has one.
fn unescape(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            1 => match bytes.next() {
                Some(b'1') => 1,
                Some(b'0') => 0,
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(other) => other,
                None => break,
            },
            _ => byte,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &[u8], courier: bool) -> Subscriptions {
        let mut all = Subscriptions::default();
        all.add(text, courier);
        all
    }

    #[test]
    fn both_dovecot_versions_and_courier_give_the_same_paths() {
        let v1 = set(b"INBOX\nArchive.2023\r\nEntw&APw-rfe\n\nA&-B\n", false);
        let v2 = set("V\t2\n\nINBOX\nArchive\t2023\nEntwürfe\nA&B\n".as_bytes(), false);
        let courier = set(b"INBOX\nINBOX.Archive.2023\nINBOX.Entw&APw-rfe\nINBOX.A&-B\n", true);
        for all in [v1, v2, courier] {
            for path in ["INBOX", "Archive/2023", "Entwürfe", "A&B"] {
                assert!(all.contains(path.as_bytes()), "{path} in {all:?}");
            }
            assert!(!all.contains(b"Archive"));
        }
    }

    #[test]
    fn odd_bytes_do_no_harm() {
        let all = set(b"V\t2\n\x01\nx\x01ty\n\xff\n\x01n\n", false);
        assert!(all.contains(b"\xff") && all.contains(b"x/y"));
        assert!(set(b"V\t2", false).0.is_empty() && set(b"", false).0.is_empty());
    }
}
