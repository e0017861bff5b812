//! What a Maildir keeps about a message in its file name: system flags and keywords.
//!
//! In come a file name (`1795308110.M9P4.vm,S=554,W=580:2,Sab`) and the folder's `dovecot-keywords`, out go IMAP flags and
//! keywords; and back.
//!
//! - The name before the first `:` is the *base*: it stays while flags change. Only `:` separates, as Maildir has it; the `;`
//!   and `!` that some ports use where a file system forbids `:` stay part of the base, so that a base with them is not cut.
//! - A lower-case letter means a keyword of its own in each folder (`dovecot-keywords`, a line `0 $Forwarded` is letter `a`).
//!   A letter without a line is `unknown-0`, as Dovecot names it: the message has a keyword whose name is lost.
//! - Flags and keywords come out sorted by byte and without repeats: the same state always has the same spelling.
//! - Information that is not `2,` (experimental `1,`, or nothing) holds no flags.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::Path;

/// The file that names a folder's keyword letters.
pub const KEYWORDS_FILE: &str = "dovecot-keywords";

/// Letters there are: more keywords than this are only in Dovecot's index.
pub const KEYWORDS_MAX: usize = 26;

/// A `dovecot-keywords` file is a few hundred bytes; more than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Sorted by flag, which is also the canonical order. `P` (passed on) has no system flag; RFC 5788 calls it `$Forwarded`.
const SYSTEM: [(u8, &[u8]); 5] =
    [(b'R', b"\\Answered"), (b'T', b"\\Deleted"), (b'D', b"\\Draft"), (b'F', b"\\Flagged"), (b'S', b"\\Seen")];

/// What `P` stands for.
pub const FORWARDED: &[u8] = b"$Forwarded";

/// A file name's parts, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameParts<'a> {
    /// What stays while flags change, with its `,S=` and `,W=`.
    pub base: &'a [u8],
    /// The letters after `:2,`.
    pub letters: &'a [u8],
}

/// Takes a file name apart.
pub fn name_parts(file_name: &[u8]) -> NameParts<'_> {
    match file_name.iter().position(|&b| b == b':') {
        None => NameParts { base: file_name, letters: b"" },
        Some(colon) => {
            let (base, info) = file_name.split_at(colon);
            NameParts { base, letters: info.strip_prefix(b":2,").unwrap_or(b"") }
        }
    }
}

/// The number after `,S=` in a base name: the file's size as the server wrote it.
pub fn size_hint(base: &[u8]) -> Option<u64> {
    let start = base.windows(3).position(|w| w == b",S=")? + 3;
    let digits = base.get(start..)?;
    let len = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(digits.get(..len)?).ok()?.parse().ok()
}

/// The flags and keywords that `letters` stand for in a folder with these keywords.
pub fn flags_and_keywords(letters: &[u8], keywords: &Keywords) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let flags = SYSTEM.iter().filter(|(letter, _)| letters.contains(letter)).map(|(_, flag)| flag.to_vec()).collect();
    let mut words: Vec<Vec<u8>> = Vec::new();
    for &letter in letters {
        match letter {
            b'a'..=b'z' => words.push(keywords.name(letter)),
            b'P' => words.push(FORWARDED.to_vec()),
            _ => {}
        }
    }
    words.sort_unstable();
    words.dedup();
    (flags, words)
}

/// The letters for these flags and keywords, in the order Maildir wants them (by byte), giving new keywords a letter in
/// `keywords`. Flags without a letter (`\Recent`, and whatever else starts with a backslash) have no place in a file name.
/// Returns also the keywords that got none because all 26 letters are taken.
pub fn letters(flags: &[Vec<u8>], words: &[Vec<u8>], keywords: &mut Keywords) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut out = Vec::new();
    let mut unplaced = Vec::new();
    for flag in flags {
        out.extend(SYSTEM.iter().filter(|(_, name)| flag.eq_ignore_ascii_case(name)).map(|(letter, _)| *letter));
    }
    for word in words {
        match keywords.letter(word).or_else(|| keywords.add(word)) {
            Some(letter) => out.push(letter),
            None => unplaced.push(word.clone()),
        }
    }
    out.sort_unstable();
    out.dedup();
    (out, unplaced)
}

/// A folder's keyword letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keywords {
    names: [Option<Vec<u8>>; KEYWORDS_MAX],
}

impl Keywords {
    /// Reads lines `index name`. What is not such a line, or has an index without a letter, is skipped: the file belongs to
    /// the server, and one line that is not understood must not cost the others. Of two lines with one index the last holds.
    pub fn parse(text: &[u8]) -> Self {
        let mut keywords = Self::default();
        for line in text.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(space) = line.iter().position(|&b| b == b' ') else { continue };
            let (index, name) = line.split_at(space);
            let name = name.get(1..).unwrap_or_default();
            let index = std::str::from_utf8(index).ok().and_then(|digits| digits.parse::<usize>().ok());
            if let Some(slot) = index.and_then(|i| keywords.names.get_mut(i))
                && !name.is_empty()
            {
                *slot = Some(name.to_vec());
            }
        }
        keywords
    }

    /// The keywords of the folder `dir`; none when the file is missing. Never follows a symlink.
    pub fn read(dir: &Path) -> io::Result<Self> {
        Self::open(rustix::fs::CWD, &dir.join(KEYWORDS_FILE))
    }

    /// As [`Keywords::read`], of a folder that is held open.
    pub fn read_at(dir: impl AsFd) -> io::Result<Self> {
        Self::open(dir, Path::new(KEYWORDS_FILE))
    }

    fn open(at: impl AsFd, path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::CLOEXEC;
        match rustix::fs::openat(at, path, flags, rustix::fs::Mode::empty()) {
            Ok(fd) => {
                let mut text = Vec::new();
                File::from(fd).take(FILE_BYTES_MAX).read_to_end(&mut text)?;
                Ok(Self::parse(&text))
            }
            Err(rustix::io::Errno::NOENT) => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (i, name) in self.names.iter().enumerate() {
            if let Some(name) = name {
                text.extend_from_slice(format!("{i} ").as_bytes());
                text.extend_from_slice(name);
                text.push(b'\n');
            }
        }
        text
    }

    /// Whether no letter has a name.
    pub fn is_empty(&self) -> bool {
        self.names.iter().all(Option::is_none)
    }

    /// Whether `letter` has a name.
    pub fn has(&self, letter: u8) -> bool {
        matches!(self.names.get(usize::from(letter.wrapping_sub(b'a'))), Some(Some(_)))
    }

    /// The keyword for `letter` (`a` to `z`).
    pub fn name(&self, letter: u8) -> Vec<u8> {
        let index = letter.wrapping_sub(b'a');
        match self.names.get(usize::from(index)) {
            Some(Some(name)) => name.clone(),
            _ => format!("unknown-{index}").into_bytes(),
        }
    }

    /// The letter that stands for `name`. Keywords are case-insensitive in IMAP, so `work` and `Work` share one.
    pub fn letter(&self, name: &[u8]) -> Option<u8> {
        let index = self.names.iter().position(|n| n.as_ref().is_some_and(|n| n.eq_ignore_ascii_case(name)))?;
        u8::try_from(index).ok().map(|i| b'a' + i)
    }

    /// Gives `name` the first free letter. `None` when all are taken, or when the name could not stand on a line of the file.
    pub fn add(&mut self, name: &[u8]) -> Option<u8> {
        if name.is_empty() || name.iter().any(|&b| b <= b' ' || b == 0x7f) {
            return None;
        }
        let index = self.names.iter().position(Option::is_none)?;
        *self.names.get_mut(index)? = Some(name.to_vec());
        u8::try_from(index).ok().map(|i| b'a' + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|w| w.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_name_comes_apart_at_the_first_colon() {
        let parts = name_parts(b"1.M2P3.vm,S=554,W=580:2,FSa");
        assert_eq!((parts.base, parts.letters), (&b"1.M2P3.vm,S=554,W=580"[..], &b"FSa"[..]));
        assert_eq!(name_parts(b"1.M2P3.vm").letters, b"");
        assert_eq!(name_parts(b"1.M2P3.vm:1,FS").letters, b"");
        assert_eq!(name_parts(b"1.M2P3.vm;2,FS").base, b"1.M2P3.vm;2,FS");
        assert_eq!(name_parts(b"\xff\xfe:2,").base, b"\xff\xfe");
        assert_eq!(name_parts(b"").base, b"");
    }

    #[test]
    fn the_size_is_taken_from_the_name() {
        assert_eq!(size_hint(b"1.M2P3.vm,S=554,W=580"), Some(554));
        assert_eq!(size_hint(b"1.M2P3.vm,W=580,S=554"), Some(554));
        assert_eq!(size_hint(b"1.M2P3.vm"), None);
        assert_eq!(size_hint(b"1.M2P3.vm,S="), None);
        assert_eq!(size_hint(b"1.M2P3.vm,S=99999999999999999999999"), None);
    }

    #[test]
    fn letters_are_flags_in_one_order() {
        let keywords = Keywords::parse(b"0 work\n1 $Forwarded\n");
        let (flags, words) = flags_and_keywords(b"STRFDPabS", &keywords);
        assert_eq!(flags, bytes(&["\\Answered", "\\Deleted", "\\Draft", "\\Flagged", "\\Seen"]));
        assert_eq!(words, bytes(&["$Forwarded", "work"]));
        assert_eq!(flags_and_keywords(b"zX,", &keywords), (vec![], bytes(&["unknown-25"])));
    }

    #[test]
    fn flags_are_letters_and_new_keywords_get_one() {
        let mut keywords = Keywords::parse(b"1 work\n");
        let flags = bytes(&["\\Seen", "\\answered", "\\Recent"]);
        let (out, unplaced) = letters(&flags, &bytes(&["Work", "$Junk", "two words"]), &mut keywords);
        assert_eq!((out.as_slice(), unplaced), (&b"RSab"[..], bytes(&["two words"])));
        assert_eq!(keywords.to_bytes(), b"0 $Junk\n1 work\n");
        for i in 0..30 {
            keywords.add(format!("k{i}").as_bytes());
        }
        assert_eq!(letters(&[], &bytes(&["more"]), &mut keywords), (vec![], bytes(&["more"])));
    }

    #[test]
    fn a_damaged_keywords_file_costs_only_its_bad_lines() {
        let keywords =
            Keywords::parse(b"garbage\n\n0 a\r\n99 far\n-1 x\n2 \n3 c\xff d\n\xff\n18446744073709551616 y\n0 b\n");
        assert_eq!(keywords.to_bytes(), b"0 b\n3 c\xff d\n");
        assert_eq!(Keywords::parse(b""), Keywords::default());
    }

    #[test]
    fn a_missing_keywords_file_is_no_keywords() {
        assert!(Keywords::read(&std::env::temp_dir().join("mailstrata-no-such-dir")).unwrap().is_empty());
    }
}
