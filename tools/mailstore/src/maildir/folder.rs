//! Maildir++ folder names.
//!
//! In comes the name of a directory beside `cur/` (`.Archive.2023`), out goes the folder's path as the rest of mailstrata
//! writes it (`Archive/2023`: UTF-8, `/` between levels, `INBOX` for the root), and back.
//!
//! - Maildir++ puts every folder directly under the root, with a leading dot and a dot between levels, each level in
//!   IMAP's modified UTF-7 (RFC 3501 §5.1.3). A server set to UTF-8 names on disk writes plain UTF-8; both are read.
//! - Bytes everywhere: a name that is neither keeps its bytes, because a folder must not vanish over its name.
//! - [`path`] takes every name. [`dir_name`] refuses what Maildir++ cannot hold; [`nearest_dir_name`] says what to use then.
//! - Nothing that comes out of [`dir_name`] or [`nearest_dir_name`] contains `/`, NUL, or is `.` or `..`: it can be joined
//!   to a target's root without leaving it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

/// The path of the root folder.
pub const INBOX: &[u8] = b"INBOX";

/// What file systems in use allow for one name.
const NAME_BYTES_MAX: usize = 255;

/// Why a path cannot be a Maildir++ directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFolderName {
    #[error("folder {path:?} has an empty level")]
    EmptyLevel { path: String },
    #[error("folder {path:?} has a dot in a level, which Maildir++ uses between levels")]
    Dot { path: String },
    #[error("folder {path:?} is not UTF-8 and has a NUL byte, which no file name has")]
    Nul { path: String },
    #[error("folder {path:?} needs a name longer than {NAME_BYTES_MAX} bytes on disk")]
    TooLong { path: String },
}

/// The folder path of a directory beside `cur/`. Takes the name with its leading dot; the empty name is the root.
pub fn path(dir_name: &[u8]) -> Vec<u8> {
    let Some(levels) = dir_name.strip_prefix(b".") else {
        return if dir_name.is_empty() { INBOX.to_vec() } else { slashed(dir_name) };
    };
    if levels == INBOX {
        // A directory of that name is not the root; its bare name would hide the real INBOX. No other path starts with a dot.
        return dir_name.to_vec();
    }
    slashed(levels)
}

/// The directory for a folder path: empty for `INBOX`, else `.` and the levels.
pub fn dir_name(path: &[u8]) -> Result<Vec<u8>, BadFolderName> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    if path == INBOX {
        return Ok(Vec::new());
    }
    if path == b".INBOX" {
        return Ok(path.to_vec());
    }
    let mut name = Vec::with_capacity(path.len() + 1);
    for level in path.split(|&b| b == b'/') {
        if level.is_empty() {
            return Err(BadFolderName::EmptyLevel { path: shown() });
        }
        if level.contains(&b'.') {
            return Err(BadFolderName::Dot { path: shown() });
        }
        name.push(b'.');
        name.extend(mutf7_from_utf8(level));
    }
    if name.contains(&0) {
        return Err(BadFolderName::Nul { path: shown() });
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(BadFolderName::TooLong { path: shown() });
    }
    Ok(name)
}

/// As [`dir_name`], and for a path that it refuses the closest name that works: a dot becomes `_`, an empty level `_`, and a
/// name that is too long is cut and ends in a digest of the whole path, so that two long names do not become one.
pub fn nearest_dir_name(path: &[u8]) -> Vec<u8> {
    if let Ok(name) = dir_name(path) {
        return name;
    }
    let mut name = Vec::with_capacity(path.len() + 1);
    for level in path.split(|&b| b == b'/') {
        name.push(b'.');
        if level.is_empty() {
            name.push(b'_');
        }
        let undotted: Vec<u8> = level.iter().map(|&b| if b == b'.' { b'_' } else { b }).collect();
        name.extend(mutf7_from_utf8(&undotted));
    }
    name.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'_');
    if name.len() > NAME_BYTES_MAX {
        let digest = Sha256::digest(path);
        // 16 hex digits, a `-`, and room left over: Dovecot appends to folder names in its own files.
        name.truncate(NAME_BYTES_MAX - 40);
        if let Some(amp) = open_shift(&name) {
            name.truncate(amp); // the cut went through a base64 run
        }
        while name.last() == Some(&b'.') {
            name.pop();
        }
        name.push(b'-');
        for byte in &digest[..8] {
            name.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
    }
    name
}

/// Turns levels separated by `.` into a path separated by `/`, each level decoded when it is modified UTF-7.
pub(crate) fn slashed(levels: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(levels.len());
    for (i, level) in levels.split(|&b| b == b'.').enumerate() {
        if i > 0 {
            path.push(b'/');
        }
        match utf8_from_mutf7(level) {
            // A level that decodes to a separator would become two levels.
            Some(decoded) if !decoded.contains(&b'/') => path.extend_from_slice(&decoded),
            _ => path.extend_from_slice(level),
        }
    }
    path
}

/// Where an `&` run is still open at the end of `name`, if one is.
fn open_shift(name: &[u8]) -> Option<usize> {
    let amp = name.iter().rposition(|&b| b == b'&')?;
    (!name[amp..].contains(&b'-')).then_some(amp)
}

/// Decodes modified UTF-7. `None` for what is not the one spelling RFC 3501 allows (8-bit bytes, an open or empty run, a
/// printable character in base64, stray bits), so that a decoded name always encodes back to the same bytes.
pub fn utf8_from_mutf7(name: &[u8]) -> Option<Vec<u8>> {
    if !name.contains(&b'&') {
        return name.iter().all(|b| matches!(b, 0x20..=0x7e)).then(|| name.to_vec());
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            b'&' => {
                let end = tail.iter().position(|&b| b == b'-')?;
                let (run, after) = tail.split_at(end);
                if run.is_empty() {
                    out.push(b'&');
                } else {
                    out.extend(decode_run(run)?);
                }
                rest = after.get(1..)?;
            }
            0x20..=0x7e => {
                out.push(first);
                rest = tail;
            }
            _ => return None,
        }
    }
    // Two neighbouring runs, or padding bits, decode as well; only the canonical spelling may pass.
    (mutf7_from_utf8(&out) == name).then_some(out)
}

/// Encodes to modified UTF-7. A name that is not UTF-8 has no spelling there and is passed on whole, as it is: half of it encoded
/// would not decode again.
pub fn mutf7_from_utf8(name: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(name) else { return name.to_vec() };
    let mut out = Vec::with_capacity(name.len());
    let mut run: Vec<u8> = Vec::new();
    for c in text.chars() {
        match c {
            '&' => {
                close_run(&mut run, &mut out);
                out.extend_from_slice(b"&-");
            }
            ' '..='~' => {
                close_run(&mut run, &mut out);
                out.extend(u8::try_from(c));
            }
            _ => {
                let mut units = [0u16; 2];
                run.extend(c.encode_utf16(&mut units).iter().flat_map(|unit| unit.to_be_bytes()));
            }
        }
    }
    close_run(&mut run, &mut out);
    out
}

fn close_run(run: &mut Vec<u8>, out: &mut Vec<u8>) {
    if run.is_empty() {
        return;
    }
    out.push(b'&');
    out.extend(STANDARD_NO_PAD.encode(&run).bytes().map(|b| if b == b'/' { b',' } else { b }));
    out.push(b'-');
    run.clear();
}

fn decode_run(run: &[u8]) -> Option<Vec<u8>> {
    let standard: Vec<u8> = run.iter().map(|&b| if b == b',' { b'/' } else { b }).collect();
    let bytes = STANDARD_NO_PAD.decode(standard).ok()?;
    if bytes.len() % 2 != 0 {
        return None;
    }
    let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units).collect::<Result<_, _>>().ok()?;
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maildir_names_are_paths_and_back() {
        for (dir, folder) in [
            ("", "INBOX"),
            (".Archive.2023", "Archive/2023"),
            (".INBOX.Projects", "INBOX/Projects"),
            (".INBOX", ".INBOX"),
            (".inbox", "inbox"),
            (".Entw&APw-rfe", "Entwürfe"),
            (".&U,BTFw-.&ZeVnLIqe-", "台北/日本語"),
            (".A&-B", "A&B"),
            (".&2D3cqQ-", "💩"),
        ] {
            assert_eq!(path(dir.as_bytes()), folder.as_bytes(), "{dir}");
            assert_eq!(dir_name(folder.as_bytes()).unwrap(), dir.as_bytes(), "{folder}");
        }
    }

    #[test]
    fn names_that_are_not_modified_utf7_keep_their_bytes() {
        for (dir, folder) in [
            (&b".caf\xe9"[..], &b"caf\xe9"[..]),
            (".Fünf".as_bytes(), "Fünf".as_bytes()),
            (b".A&B", b"A&B"),
            (b".A&!!-", b"A&!!-"),
            (b".&AC8-", b"&AC8-"), // a slash in base64
            (b".&AEE-", b"&AEE-"), // a printable in base64
            (b".&2D0-", b"&2D0-"), // half a surrogate pair
        ] {
            assert_eq!(path(dir), folder);
        }
        assert_eq!(dir_name(b"caf\xe9").unwrap(), b".caf\xe9");
    }

    #[test]
    fn what_maildir_cannot_hold_is_refused_and_has_a_nearest_name() {
        assert!(matches!(dir_name(b"a//b"), Err(BadFolderName::EmptyLevel { .. })));
        assert!(matches!(dir_name(b""), Err(BadFolderName::EmptyLevel { .. })));
        assert!(matches!(dir_name(b"v1.2/x"), Err(BadFolderName::Dot { .. })));
        assert!(matches!(dir_name(b"../../etc"), Err(BadFolderName::Dot { .. })));
        assert_eq!(nearest_dir_name(b"v1.2/x"), b".v1_2.x");
        assert_eq!(nearest_dir_name(b"a//b"), b".a._.b");
        assert_eq!(nearest_dir_name(b""), b"._");
        assert_eq!(nearest_dir_name(b"../../etc"), b".__.__.etc");
        let long = |tail: &str| format!("{}{tail}", "ü".repeat(200));
        let (a, b) = (nearest_dir_name(long("a").as_bytes()), nearest_dir_name(long("b").as_bytes()));
        assert!(a.len() <= NAME_BYTES_MAX && a != b);
    }

    #[test]
    fn every_path_gives_a_name_that_stays_inside() {
        let mut seed = 7u64;
        for _ in 0..5000 {
            let mut path = Vec::new();
            for _ in 0..seed % 12 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                path.push(b"/.&-\0a\xc3\xbc\xff,INBOX"[(seed >> 33) as usize % 15]);
            }
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let name = nearest_dir_name(&path);
            assert!(!name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..", "{path:?}");
            if let Ok(strict) = dir_name(&path) {
                assert_eq!(super::path(&strict), path, "{path:?} via {strict:?}");
            }
        }
    }
}
