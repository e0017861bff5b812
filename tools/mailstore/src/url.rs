//! Source and target URLs.
//!
//! In comes what an administrator types (`maildir:/srv/mail/{domain}/{user}/Maildir`), out goes a [`Url`] that names the door
//! and the place behind it, or an error that says which part is wrong.
//!
//! - `%XX` stands for a byte, in the path and in query values; `%`, `?`, `{` and `}` in a name are written that way. Paths are
//!   bytes, not text.
//! - Schemes that are planned are recognised and refused, so that nobody takes them for a typing error.
//! - Nothing here looks at the disk.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Why a URL is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("{url:?} has no scheme; write maildir:PATH, mbox:PATH, eml:DIR or events:-")]
    NoScheme { url: String },
    #[error("scheme {scheme:?} is unknown; known are maildir, mbox, eml and events")]
    UnknownScheme { scheme: String },
    #[error("scheme {scheme:?} is not built yet; built are maildir, mbox, eml and events")]
    NotBuiltYet { scheme: String },
    #[error("a redo log as a source is not built yet; `mailstrata redolog dump` reads its files")]
    RedologSource,
    #[error("{url:?} names no path")]
    NoPath { url: String },
    #[error("{url:?} names a host; files are local, write {scheme}:/PATH")]
    Host { url: String, scheme: String },
    #[error("{url:?} has a % that is not followed by two hexadecimal digits")]
    Percent { url: String },
    #[error("{url:?} contains a NUL byte, which no path and no address has")]
    Nul { url: String },
    #[error("{url:?} has the option {key:?}, which {scheme} does not take")]
    Option { url: String, scheme: String, key: String },
    #[error("{url:?} names an empty account")]
    EmptyAccount { url: String },
    #[error("template {url:?}: {why}")]
    Template { url: String, why: &'static str },
    #[error("{url:?} names no account and its path gives none; add ?account=ADDRESS")]
    NoAccountName { url: String },
}

/// A door and the place behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// One user's Maildir, or a tree of them.
    Maildir(MaildirUrl),
    /// An mbox file.
    Mbox(Place),
    /// A directory of `.eml` files.
    Eml(Place),
    /// Event lines on standard input.
    Events,
}

/// A path, and the account that it belongs to where the URL names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub account: Option<Vec<u8>>,
    /// It was written with a slash at its end: a directory, whether it is there or not.
    pub is_dir: bool,
}

/// One Maildir or a tree of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaildirUrl {
    /// `maildir:/path`: the Maildir is the path itself.
    One { path: PathBuf, account: Vec<u8> },
    /// `maildir:/srv/mail/{domain}/{user}/Maildir`.
    Tree(Template),
}

/// A path with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Everything before the first level with a placeholder.
    pub base: PathBuf,
    /// The levels from there on.
    pub levels: Vec<Level>,
}

/// One level of a template: literal text and placeholders in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level(pub Vec<Part>);

/// A piece of a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(Vec<u8>),
    User,
    Domain,
}

/// What the levels of a path gave for the placeholders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    pub user: Vec<u8>,
    pub domain: Option<Vec<u8>>,
}

impl Captured {
    /// `user@domain`, or `user` when the template has no domain.
    pub fn address(&self) -> Vec<u8> {
        match &self.domain {
            None => self.user.clone(),
            Some(domain) => [self.user.as_slice(), b"@", domain].concat(),
        }
    }
}

impl Level {
    /// The name, when this level has no placeholder.
    pub fn literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Matches a directory's name and notes what the placeholders stand for. A placeholder takes at least one byte; where
    /// two share a level, the first reaches to the *last* occurrence of the text between them.
    pub fn capture(&self, name: &[u8], captured: &mut Captured) -> bool {
        let mut rest = name;
        let mut open: Option<&Part> = None;
        for (i, part) in self.0.iter().enumerate() {
            let Part::Text(text) = part else {
                open = Some(part);
                continue;
            };
            let at = match open {
                _ if text.is_empty() => None,
                None => rest.starts_with(text).then_some(0),
                Some(_) if i + 1 == self.0.len() => rest.ends_with(text).then(|| rest.len() - text.len()),
                Some(_) => rest.windows(text.len()).rposition(|window| window == text.as_slice()),
            };
            let Some(at) = at else { return false };
            if !take(&mut open, rest.get(..at).unwrap_or_default(), captured) {
                return false;
            }
            rest = rest.get(at + text.len()..).unwrap_or_default();
        }
        if open.is_some() { take(&mut open, rest, captured) } else { rest.is_empty() }
    }
}

fn take(open: &mut Option<&Part>, value: &[u8], captured: &mut Captured) -> bool {
    match open.take() {
        None => return value.is_empty(),
        Some(_) if value.is_empty() => return false,
        Some(Part::User) => captured.user = value.to_vec(),
        Some(Part::Domain) => captured.domain = Some(value.to_vec()),
        Some(Part::Text(_)) => return false,
    }
    true
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let shown = || url.to_owned();
        let (scheme, rest) = url.split_once(':').ok_or_else(|| UrlError::NoScheme { url: shown() })?;
        // A path with a colon in it is not a scheme.
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return Err(UrlError::NoScheme { url: shown() });
        }
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "maildir" | "mbox" | "eml" => {}
            "events" if rest == "-" => return Ok(Self::Events),
            "events" => return Err(UrlError::NoPath { url: format!("{url} (only events:- is read)") }),
            "redolog" => return Err(UrlError::RedologSource),
            "imap" | "imaps" | "dovecot" => return Err(UrlError::NotBuiltYet { scheme }),
            _ => return Err(UrlError::UnknownScheme { scheme }),
        }
        let (raw_path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        if raw_path.is_empty() {
            return Err(UrlError::NoPath { url: shown() });
        }
        // `maildir:///srv` is how file URLs are typed; `maildir://srv` would be read as a host by everybody else.
        if raw_path.starts_with("//") && !raw_path.starts_with("///") {
            return Err(UrlError::Host { url: shown(), scheme });
        }
        let account = query.map(|query| account_option(url, &scheme, query)).transpose()?.flatten();
        if scheme == "maildir" {
            return maildir(url, raw_path, account).map(Self::Maildir);
        }
        let is_dir = raw_path.len() > 1 && raw_path.ends_with('/');
        let place = Place { path: path_of(decode(url, raw_path)?), account, is_dir };
        Ok(if scheme == "mbox" { Self::Mbox(place) } else { Self::Eml(place) })
    }
}

fn maildir(url: &str, raw_path: &str, account: Option<Vec<u8>>) -> Result<MaildirUrl, UrlError> {
    if raw_path.contains(['{', '}']) {
        if account.is_some() {
            let why = "a tree names its accounts by {user} and {domain}, it takes no ?account=";
            return Err(UrlError::Template { url: url.to_owned(), why });
        }
        return template(url, raw_path).map(MaildirUrl::Tree);
    }
    let path = path_of(decode(url, raw_path)?);
    let account = match account {
        Some(account) => account,
        None => derived_account(&path).ok_or_else(|| UrlError::NoAccountName { url: url.to_owned() })?,
    };
    Ok(MaildirUrl::One { path, account })
}

/// The last level of the path that is not itself called `Maildir`.
fn derived_account(path: &Path) -> Option<Vec<u8>> {
    let own = path.file_name()?;
    let named = if own == "Maildir" || own == ".maildir" { path.parent()?.file_name()? } else { own };
    Some(named.as_bytes().to_vec())
}

fn account_option(url: &str, scheme: &str, query: &str) -> Result<Option<Vec<u8>>, UrlError> {
    let mut account = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        if key != "account" || account.is_some() {
            return Err(UrlError::Option { url: url.to_owned(), scheme: scheme.to_owned(), key: key.to_owned() });
        }
        let value = decode(url, value)?;
        if value.is_empty() {
            return Err(UrlError::EmptyAccount { url: url.to_owned() });
        }
        account = Some(value);
    }
    Ok(account)
}

fn template(url: &str, raw_path: &str) -> Result<Template, UrlError> {
    let bad = |why| UrlError::Template { url: url.to_owned(), why };
    let mut base = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let (mut users, mut domains) = (0, 0);
    if raw_path.starts_with('/') {
        base.push(b'/');
    }
    for level in raw_path.split('/').filter(|level| !level.is_empty() && *level != ".") {
        if level == ".." {
            return Err(bad("a template cannot go up with .."));
        }
        if levels.is_empty() && !level.contains(['{', '}']) {
            base.extend(decode(url, level)?);
            base.push(b'/');
            continue;
        }
        let mut parts = Vec::new();
        let mut rest = level;
        while !rest.is_empty() {
            let open = rest.find(['{', '}']).unwrap_or(rest.len());
            let (text, tail) = rest.split_at(open);
            if !text.is_empty() {
                parts.push(Part::Text(decode(url, text)?));
            }
            if tail.is_empty() {
                break;
            }
            let close = tail.find('}').filter(|_| tail.starts_with('{'));
            let close = close.ok_or_else(|| bad("a brace has no partner; write %7B or %7D for a brace in a name"))?;
            let part = match tail.get(1..close) {
                Some("user") => Part::User,
                Some("domain") => Part::Domain,
                _ => return Err(bad("the placeholders are {user} and {domain}, there are no others")),
            };
            if parts.last().is_some_and(|last| !matches!(last, Part::Text(_))) {
                return Err(bad("{user} and {domain} need text or a / between them"));
            }
            users += usize::from(part == Part::User);
            domains += usize::from(part == Part::Domain);
            parts.push(part);
            rest = tail.get(close + 1..).unwrap_or_default();
        }
        levels.push(Level(parts));
    }
    if users != 1 {
        return Err(bad("it needs {user} exactly once"));
    }
    if domains > 1 {
        return Err(bad("it takes {domain} once"));
    }
    if base.is_empty() {
        base.push(b'.');
    }
    Ok(Template { base: path_of(base), levels })
}

fn path_of(mut bytes: Vec<u8>) -> PathBuf {
    // A trailing slash would make the last component follow a symlink.
    while bytes.len() > 1 && bytes.last() == Some(&b'/') {
        bytes.pop();
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn decode(url: &str, text: &str) -> Result<Vec<u8>, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
            match (digit(), digit()) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(UrlError::Percent { url: url.to_owned() }),
            }
        } else {
            byte
        };
        if byte == 0 {
            return Err(UrlError::Nul { url: url.to_owned() });
        }
        out.push(byte);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> (PathBuf, Vec<u8>) {
        match url.parse() {
            Ok(Url::Maildir(MaildirUrl::One { path, account })) => (path, account),
            other => panic!("{url}: {other:?}"),
        }
    }

    fn tree(url: &str) -> Template {
        match url.parse() {
            Ok(Url::Maildir(MaildirUrl::Tree(template))) => template,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn one_maildir_gets_its_account_from_the_option_or_the_path() {
        assert_eq!(one("maildir:/m/alice"), ("/m/alice".into(), b"alice".to_vec()));
        assert_eq!(one("maildir:/m/alice/Maildir/").1, b"alice");
        assert_eq!(one("maildir:/m/alice/.maildir").1, b"alice");
        assert_eq!(one("maildir:///m/x?account=alice%40example.org").1, b"alice@example.org");
        assert_eq!(one("maildir:/m/%ff%25%3F").0.as_os_str().as_bytes(), b"/m/\xff%?");
        assert_eq!(one("MAILDIR:rel/bob").0, PathBuf::from("rel/bob"));
        assert!(matches!("maildir:/".parse::<Url>(), Err(UrlError::NoAccountName { .. })));
        assert!(matches!("maildir:/Maildir".parse::<Url>(), Err(UrlError::NoAccountName { .. })));
    }

    #[test]
    fn a_template_captures_user_and_domain() {
        let template = tree("maildir:/srv/mail/{domain}/{user}/Maildir");
        assert_eq!(template.base, PathBuf::from("/srv/mail"));
        let mut captured = Captured::default();
        assert!(template.levels[0].capture(b"example.org", &mut captured));
        assert!(template.levels[1].capture(b"alice", &mut captured));
        assert_eq!(template.levels[2].literal(), Some(&b"Maildir"[..]));
        assert_eq!(captured.address(), b"alice@example.org");

        let mixed = tree("maildir:/m/box-{user}@{domain}.d");
        let mut captured = Captured::default();
        assert!(mixed.levels[0].capture(b"box-a@b@example.org.d", &mut captured));
        assert_eq!(captured.address(), b"a@b@example.org");
        for no in [&b"box-@example.org.d"[..], b"box-a@.d", b"box-a@b", b"bax-a@b.d", b"", b"box-a.d"] {
            assert!(!mixed.levels[0].capture(no, &mut Captured::default()), "{no:?}");
        }
        let mut captured = Captured::default();
        assert!(tree("maildir:{user}").levels[0].capture(b"\xff", &mut captured));
        assert_eq!(captured.address(), b"\xff");
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        for (url, part) in [
            ("/srv/mail", "no scheme"),
            ("./a:b", "no scheme"),
            ("pop3:x", "unknown"),
            ("imap://h/", "not built yet"),
            ("redolog:/x", "redolog dump"),
            ("dovecot:/x", "not built yet"),
            ("maildir:", "names no path"),
            ("events:/f", "events:-"),
            ("maildir://host/x", "names a host"),
            ("maildir:/a%2", "hexadecimal"),
            ("maildir:/a%00", "NUL"),
            ("maildir:/a?acount=x", "acount"),
            ("mbox:/a?account=", "empty account"),
            ("maildir:/{user}?account=x", "takes no ?account="),
            ("maildir:/{domain}/x", "{user} exactly once"),
            ("maildir:/{user}/{user}", "{user} exactly once"),
            ("maildir:/{domain}/{domain}/{user}", "{domain} once"),
            ("maildir:/{usr}", "no others"),
            ("maildir:/{user", "no partner"),
            ("maildir:/}user{", "no partner"),
            ("maildir:/{user}{domain}", "between them"),
            ("maildir:/{user}/../x", "go up"),
        ] {
            let error = url.parse::<Url>().expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        assert_eq!("events:-".parse::<Url>(), Ok(Url::Events));
        assert!(matches!("mbox:/a?account=x".parse::<Url>(), Ok(Url::Mbox(Place { account: Some(_), .. }))));
        assert!(matches!("eml:/a".parse::<Url>(), Ok(Url::Eml(Place { account: None, .. }))));
    }
}
