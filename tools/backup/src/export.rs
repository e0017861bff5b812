//! A store as event lines: the whole history in LSN order, or the items as they were at a moment.
//!
//! Nothing is passed over in silence: where a transaction or a blob is damaged a line says so, and the rest follows.

use crate::lines::{line_kind, to_line};
use mailstrata_engine::{Error, Hit, LogEntry, Transaction, View};
use mailstrata_format::{AccountId, Digest, ItemKind, Lsn};
use mailstrata_mailstore::json::{BlobLine, BlobSource, EventLine, Field, Kind, LineWriter, Op, WriteError};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What stands for a blob's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blobs {
    /// Base64 in the line.
    Inline,
    /// The digest only.
    Digest,
    /// A file below this directory, named in the line.
    Dir(PathBuf),
}

/// What to export.
#[derive(Debug, Clone)]
pub struct Export {
    pub blobs: Blobs,
    /// Only this account.
    pub account: Option<AccountId>,
    /// Only accounts whose address ends with `@` and this.
    pub domain: Option<String>,
    /// Only what was recorded after this LSN.
    pub since: Option<u64>,
    /// Instead of the history: every item as it was at this moment (µs UTC), deleted ones not.
    pub at: Option<i64>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub lines: u64,
    pub damaged: u64,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("writing the lines: {0}")]
    Output(#[source] io::Error),
    #[error("{}: {source}", .path.display())]
    BlobFile { path: PathBuf, source: io::Error },
}

/// Address of the account and native id of the item.
type Names = (Vec<u8>, Vec<u8>);

struct Writer<'a, W: Write> {
    view: &'a View,
    what: &'a Export,
    out: LineWriter<W>,
    totals: Totals,
    /// Accounts whose own item was deleted so far: their address alone means a later account from then on.
    ended: HashSet<AccountId>,
    /// Names of items, for lines about those that cannot be read.
    names: HashMap<(AccountId, [u8; 16]), Names>,
    made: HashSet<Digest>,
}

/// Names kept at most; beyond it an unreadable item is named by its key.
const NAMES_MAX: usize = 100_000;

/// Writes the lines.
pub fn export(view: &View, what: &Export, out: impl Write) -> Result<Totals, ExportError> {
    let mut w = Writer {
        view,
        what,
        out: LineWriter::new(out),
        totals: Totals::default(),
        ended: HashSet::new(),
        names: HashMap::new(),
        made: HashSet::new(),
    };
    if let Blobs::Dir(dir) = &what.blobs {
        fs::create_dir_all(dir).map_err(|source| ExportError::BlobFile { path: dir.clone(), source })?;
    }
    match what.at {
        None => {
            for entry in view.log(Lsn(what.since.unwrap_or(0) + 1)) {
                match entry? {
                    LogEntry::Transaction(t) => w.transaction(&t)?,
                    LogEntry::Damaged(hit, e) => w.damaged(&hit, &e)?,
                    LogEntry::Missing { from, to, error } => {
                        // Nobody knows whose they were, so no line can name them.
                        tracing::error!(%error, "transactions {from} to {to} are lost");
                        w.totals.damaged += to.0 - from.0 + 1;
                    }
                }
            }
        }
        Some(at) => {
            let accounts = match what.account {
                Some(id) => vec![id],
                None => view.accounts()?.iter().map(Hit::account).collect(),
            };
            for account in accounts {
                let meant = |hit: &Hit| !hit.deleted() && hit.row.lsn > what.since.unwrap_or(0);
                let rows = view.items(account, Some(at))?.filter(|hit| hit.as_ref().map_or(true, meant));
                for hit in view.ahead(rows) {
                    let hit = hit?;
                    match view.read(&hit) {
                        Ok(t) => w.transaction(&t)?,
                        Err(e @ Error::Damage(_)) => w.damaged(&hit, &e)?,
                        Err(e) => return Err(e.into()),
                    }
                }
            }
        }
    }
    w.out.get_mut().flush().map_err(ExportError::Output)?;
    Ok(w.totals)
}

impl<W: Write> Writer<'_, W> {
    fn wanted(&self, account: AccountId, address: &[u8]) -> bool {
        let domain = |d: &String| address.strip_suffix(d.as_bytes()).is_some_and(|rest| rest.ends_with(b"@"));
        self.what.account.is_none_or(|a| a == account) && self.what.domain.as_ref().is_none_or(domain)
    }

    fn transaction(&mut self, t: &Transaction) -> Result<(), ExportError> {
        if !self.wanted(t.account_id, &t.account) {
            return Ok(());
        }
        if self.names.len() < NAMES_MAX {
            self.names.entry((t.account_id, t.item_key.0)).or_insert_with(|| (t.account.clone(), t.item.clone()));
        }
        let plain = t.account_id == AccountId::of_address(&t.account, 1) && !self.ended.contains(&t.account_id);
        if t.deleted && t.kind == ItemKind::Account && t.item == t.account {
            self.ended.insert(t.account_id);
        }
        let mut line = to_line(t, !plain);
        self.totals.lines += 1;
        if let Blobs::Dir(dir) = &self.what.blobs {
            let dir = dir.clone();
            if let Err(e) = self.blob_files(&mut line, &dir) {
                return self.not_whole(&line, e);
            }
        }
        let (view, inline) = (self.view, self.what.blobs == Blobs::Inline);
        let mut open = |b: &BlobLine<'_>| -> io::Result<Option<Box<dyn Read + 'static>>> {
            match &b.source {
                BlobSource::Digest(d) if inline => Ok(Some(Box::new(whole(view, &Digest(*d))?))),
                _ => Ok(None),
            }
        };
        match self.out.write_with(&line, &mut open) {
            Ok(()) => Ok(()),
            Err(WriteError::Output(e)) => Err(ExportError::Output(e)),
            Err(WriteError::Content { source, .. }) => match source.downcast::<Error>() {
                Ok(e @ Error::Damage(_)) => self.not_whole(&line, e.into()),
                Ok(e) => Err(e.into()),
                Err(e) => Err(ExportError::Output(e)),
            },
        }
    }

    /// A transaction whose blob cannot be read whole.
    fn not_whole(&mut self, line: &EventLine<'_>, e: ExportError) -> Result<(), ExportError> {
        let ExportError::Store(Error::Damage(damage)) = &e else { return Err(e) };
        tracing::error!(%damage, "a blob is damaged");
        let op = Op::Damaged { code: damage.kind.code().into() };
        let mut told = EventLine::new(&line.account, &line.item, line.kind, op);
        (told.account_id, told.at, told.lsn) = (line.account_id, line.at, line.lsn);
        self.totals.damaged += 1;
        self.out.write(&told).map_err(ExportError::Output)
    }

    fn damaged(&mut self, hit: &Hit, e: &Error) -> Result<(), ExportError> {
        let Error::Damage(damage) = e else { return Err(e.clone().into()) };
        let (account, item) = self.name_of(hit);
        if !self.wanted(hit.account(), &account) {
            return Ok(());
        }
        tracing::error!(%damage, "a transaction is damaged");
        let kind = hit.kind().and_then(line_kind).unwrap_or(Kind::Other);
        let mut line = EventLine::new(&account, &item, kind, Op::Damaged { code: damage.kind.code().into() });
        line.account_id = Some(hit.account().0);
        line.lsn = Some(hit.row.lsn);
        self.totals.lines += 1;
        self.totals.damaged += 1;
        self.out.write(&line).map_err(ExportError::Output)
    }

    /// Address and native id of an item, from any of its transactions that can be read; else its ids as text.
    fn name_of(&self, hit: &Hit) -> Names {
        if let Some(known) = self.names.get(&(hit.account(), hit.row.item)) {
            return known.clone();
        }
        let rows = self.view.rows(hit.account(), hit.item()).unwrap_or_default();
        let readable = rows.iter().find_map(|h| self.view.read(h).ok());
        readable.map_or_else(
            || (hit.account().to_string().into_bytes(), hit.item().to_string().into_bytes()),
            |t| (t.account, t.item),
        )
    }

    /// Writes a line's blobs to files and names these.
    fn blob_files(&mut self, line: &mut EventLine<'static>, dir: &Path) -> Result<(), ExportError> {
        let Field::Value(blobs) = &mut line.blobs else { return Ok(()) };
        for b in blobs {
            let BlobSource::Digest(d) = &b.source else { continue };
            let digest = Digest(*d);
            let path = dir.join(digest.to_string());
            if self.made.insert(digest) && !path.exists() {
                let temp = path.with_extension("tmp");
                let failed = |source| ExportError::BlobFile { path: temp.clone(), source };
                let mut file = File::create(&temp).map_err(failed)?;
                let written = self
                    .view
                    .read_blob(&digest, &mut |bytes| file.write_all(bytes).map_err(Error::io("writing", &temp)));
                if let Err(e) = written {
                    self.made.remove(&digest);
                    fs::remove_file(&temp).map_err(failed)?;
                    return Err(e.into());
                }
                fs::rename(&temp, &path).map_err(failed)?;
            }
            let full = std::path::absolute(&path).map_err(|source| ExportError::BlobFile { path, source })?;
            b.source = BlobSource::Path(std::os::unix::ffi::OsStrExt::as_bytes(full.as_os_str()).to_vec());
        }
        Ok(())
    }
}

/// Blobs up to this length are read into memory; a longer one goes through a temporary file, verified before it is used.
const IN_MEMORY: u64 = 16 << 20;

enum Whole {
    Memory(io::Cursor<Vec<u8>>),
    File(File),
}

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(m) => m.read(buf),
            Self::File(f) => f.read(buf),
        }
    }
}

/// A blob, verified to its last byte before the first is given out.
fn whole(view: &View, digest: &Digest) -> io::Result<Whole> {
    let length = view.blob_len(digest).map_err(io::Error::other)?.unwrap_or(0);
    if length <= IN_MEMORY {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let read = view.read_blob(digest, &mut |b| {
            bytes.extend_from_slice(b);
            Ok(())
        });
        read.map_err(io::Error::other)?;
        return Ok(Whole::Memory(io::Cursor::new(bytes)));
    }
    let mut file = tempfile::tempfile()?;
    let read = view.read_blob(digest, &mut |b| file.write_all(b).map_err(Error::io("writing", std::env::temp_dir())));
    read.map_err(io::Error::other)?;
    io::Seek::rewind(&mut file)?;
    Ok(Whole::File(file))
}
