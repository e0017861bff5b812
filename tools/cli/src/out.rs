//! What goes to stdout: JSON lines, tables, and how moments and bytes look.

use crate::exit::Failure;
use crate::{Backend, Global};
use jiff::tz::TimeZone;
use mailstrata_backup::resolve;
use mailstrata_engine::disk::posix;
use mailstrata_engine::{Error, Options, Reader, Store, View};
use mailstrata_format::{AccountId, ItemKey, Lsn, StoreId};
use mailstrata_mailstore::json::percent_encode;
use mailstrata_mailstore::time::{self, Moment};
use std::io::{BufWriter, Stdout, Write};
use std::path::PathBuf;

/// A line on stdout; an error instead of a panic when it cannot be written.
#[macro_export]
macro_rules! say {
    ($($t:tt)*) => {
        $crate::out::line(format_args!($($t)*))?
    };
}

/// See [`say!`].
pub fn line(what: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    let mut to = std::io::stdout();
    to.write_fmt(what)?;
    to.write_all(b"\n")
}

/// Buffered stdout; flushed by whoever ends.
#[must_use]
pub fn stdout() -> BufWriter<Stdout> {
    BufWriter::with_capacity(64 << 10, std::io::stdout())
}

/// One JSON object on a line.
pub fn json_line(out: &mut impl Write, value: &serde_json::Value) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// RFC 3339, UTC, µs.
#[must_use]
pub fn moment(micros: i64) -> String {
    time::format_rfc3339(micros)
}

/// Bytes as text for people, escaped where they are not UTF-8; control characters too, which a terminal would obey.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let t = percent_encode(bytes);
    if t.chars().any(char::is_control) { t.escape_debug().to_string() } else { t }
}

/// As [`text`], for an optional field.
#[must_use]
pub fn text_or(bytes: Option<&[u8]>, otherwise: &str) -> String {
    bytes.map_or_else(|| otherwise.to_owned(), text)
}

/// Bytes for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn server(g: &Global) -> Result<Option<[u8; 16]>, Failure> {
    g.server_id
        .as_ref()
        .map(|t| {
            StoreId::parse(t).map(|id| id.0).ok_or_else(|| Failure::usage(format!("--server-id: `{t}` is not a UUID")))
        })
        .transpose()
}

/// The store's directory.
pub fn store_dir(g: &Global) -> Result<PathBuf, Failure> {
    g.store.clone().ok_or_else(|| {
        Failure::usage("which store?").hint("name its directory with --store DIR, or set MAILSTRATA_STORE")
    })
}

/// The engine's options.
pub fn options(g: &Global, operation: &str) -> Result<Options, Failure> {
    let backend = match g.io {
        Backend::Auto => posix::Backend::Auto,
        Backend::Uring => posix::Backend::Uring,
        Backend::Posix => posix::Backend::Posix,
    };
    let retire_delay = std::time::Duration::from_secs(g.retire_delay);
    Ok(Options { server: server(g)?, operation: operation.into(), retire_delay, ..Options::with_backend(backend)? })
}

/// The store, open for reading.
pub fn reader(g: &Global) -> Result<Reader, Failure> {
    // Readers have no queue: plain calls serve, and no ring is set up for nothing.
    let plain = Global { io: if g.io == Backend::Auto { Backend::Posix } else { g.io }, ..g.clone() };
    let reader = Store::open_read(&store_dir(g)?, &options(&plain, "read")?)?;
    for damage in reader.findings() {
        tracing::error!(%damage, "damage");
    }
    Ok(reader)
}

/// The store, open for writing; waits for another writer as long as it was told to.
pub fn writer(g: &Global, operation: &str) -> Result<Store, Failure> {
    let dir = store_dir(g)?;
    let options = options(g, operation)?;
    let mut left = g.lock_wait * 10;
    let store = loop {
        match Store::open(&dir, &options) {
            Err(Error::InUse { .. }) if left > 0 => {
                left -= 1;
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            other => break other?,
        }
    };
    for damage in store.findings() {
        tracing::error!(%damage, "damage");
    }
    Ok(store)
}

/// A view and the moment in it that `--at` means.
pub struct At {
    pub view: View,
    /// µs UTC; `None`: the view's end.
    pub moment: Option<i64>,
}

/// µs UTC now.
#[must_use]
pub fn now() -> i64 {
    mailstrata_engine::disk::Clock::now(&mailstrata_engine::disk::SystemClock)
}

/// Parses a time given on the command line.
pub fn parse_moment(what: &str, given: &str) -> Result<Moment, Failure> {
    time::parse_moment(given, now(), &TimeZone::system()).map_err(|e| Failure::usage(format!("{what}: {e}")))
}

/// What `--at` means in a view; the resolved instant is said on stderr.
pub fn resolve_at(view: View, given: Option<&str>) -> Result<At, Failure> {
    let Some(given) = given else { return Ok(At { view, moment: None }) };
    let nothing =
        || Failure::new(crate::exit::Code::NothingMatched, "the store is empty: there is no moment to go back to");
    match parse_moment("--at", given)? {
        Moment::Last => Ok(At { view, moment: None }),
        Moment::First => {
            let (first, _) = view.span().ok_or_else(nothing)?;
            eprintln!("at {}", moment(first));
            Ok(At { view, moment: Some(first) })
        }
        Moment::At(t) => {
            let (first, _) = view.span().ok_or_else(nothing)?;
            eprintln!("at {}", moment(t));
            if t > now() {
                eprintln!("note: that lies in the future; what follows is what is known now");
            }
            if t < first {
                let message = format!("{} is before the first record, of {}", moment(t), moment(first));
                return Err(Failure::new(crate::exit::Code::NothingMatched, message)
                    .hint("give a later moment, or `--at first`"));
            }
            Ok(At { view, moment: Some(t) })
        }
        Moment::Lsn(n) => {
            if n > view.lsn().0 {
                let message = format!("lsn:{n} is behind the last one, {}", view.lsn());
                return Err(Failure::new(crate::exit::Code::NothingMatched, message));
            }
            eprintln!("at LSN {n}");
            Ok(At { view: view.at_lsn(Lsn(n)), moment: None })
        }
    }
}

/// The account that the command line names, and others of its name.
pub fn who(view: &View, given: &str, at: Option<i64>) -> Result<resolve::Account, Failure> {
    Ok(resolve::account(view, given.as_bytes(), at)?)
}

/// The account's id; says so when there are others of the name.
pub fn account(view: &View, given: &str) -> Result<AccountId, Failure> {
    let found = who(view, given, None)?;
    for other in &found.others {
        let state = other.deleted.map_or("alive".to_owned(), |d| format!("deleted {}", moment(d)));
        eprintln!("note: {} is the name of another account too: {} ({state})", text(&other.address), other.id);
    }
    Ok(found.is.id)
}

/// The item that the command line names.
pub fn item(view: &View, account: AccountId, given: &str) -> Result<ItemKey, Failure> {
    Ok(resolve::item(view, account, given.as_bytes())?.key)
}
