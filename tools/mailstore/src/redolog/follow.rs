//! A log followed while the server writes it: its live file, and on through every rollover.
//!
//! In comes the directory and a position, out go committed changes in the order of their commits, each with its content and
//! the position behind its commit; and everything because of which something may be missing. Rules:
//!
//! - At least once: who keeps [`Follower::position`] after it has applied everything before it, and starts there again, misses
//!   nothing. A change is told apart from its repetition by its transaction and the place of its commit.
//! - On a restart the file of the position, and the one before it, are read again from their start without telling: what is
//!   open, and content that later deliveries only name, stands there.
//! - The open file stays open across its rename into the archive, or its removal. What counts is the file, not its name.
//! - A sequence that is missing, another server or a lower number, bytes that are no record, the end of a change that was never
//!   seen and a file that became shorter are told. What they may have cost is for the caller to find out.

use crate::redolog::files::{LogFile, LogFiles, Unread, sequence_of};
use crate::redolog::header::HEADER_LEN;
use crate::redolog::input::ReadAt as _;
use crate::redolog::operation::STORE_INCOMING_BLOB;
use crate::redolog::record::{Extent, Record, TransactionId};
use crate::redolog::scan::{Scanner, Skipped, Step};
use crate::redolog::transaction::{Fate, Transactions};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Deliveries to several mailboxes whose content is remembered. Each is named by the next few records.
const SHARED_MAX: usize = 4096;

/// A place in a log: all records of earlier sequences, and those of this one before the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub sequence: i64,
    pub offset: u64,
}

/// Content, in a file that is held open.
#[derive(Debug, Clone)]
pub struct Blob {
    pub file: Arc<File>,
    pub extent: Extent,
    /// Uncompressed; `None`: it is not compressed.
    pub size: Option<u64>,
}

/// A change that counts.
#[derive(Debug)]
pub struct Committed {
    pub record: Record,
    /// The file that the record's extents are in.
    pub file: Arc<File>,
    /// Its content, also when the record only names it. `None`: it has none, or a delivery names what was not seen.
    pub content: Option<Blob>,
    /// The content stands in a record that was not seen.
    pub content_missing: bool,
    /// The mailbox's last change before this one, when the server numbered others in between, or numbered anew: another node
    /// wrote them to a log of its own, or they were lost.
    pub jump_from: Option<i32>,
    /// Where its commit stands.
    pub commit: Position,
    /// When it was committed, milliseconds since 1970 UTC.
    pub committed_ms: i64,
}

/// What following a log gives.
#[derive(Debug)]
pub enum Found {
    Change(Box<Committed>),
    /// Bytes that are no record, of whatever mailboxes.
    Damaged {
        sequence: i64,
        skipped: Skipped,
    },
    /// What was logged between two sequences is not there; or the log began anew, when `before` is not behind `after` or the
    /// server is another.
    Gap {
        after: i64,
        before: i64,
    },
    /// A change of this mailbox ended that was never seen.
    Orphan {
        mailbox: i64,
        transaction: TransactionId,
        at: Position,
    },
    /// The server cut off what it could not read when it started again.
    Shortened {
        sequence: i64,
        to: u64,
    },
}

/// Why following does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error("reading {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
struct Current {
    path: PathBuf,
    file: Arc<File>,
    scanner: Scanner<Arc<File>>,
    sequence: i64,
    server_id: String,
    identity: (u64, u64),
    /// The server may still write to it.
    live: bool,
}

/// Follows the log in a directory: its `redo.log`, and `archive/` in it.
#[derive(Debug)]
pub struct Follower {
    live_path: PathBuf,
    archive: PathBuf,
    current: Option<Current>,
    /// Nothing before this is told.
    from: Option<Position>,
    transactions: Transactions<Arc<File>>,
    shared: HashMap<String, Blob>,
    shared_order: VecDeque<String>,
    /// The last change number of each mailbox seen.
    changes: HashMap<i64, i32>,
}

impl Follower {
    /// From a position on; `None`: from the oldest file there is. Nothing is opened yet: a log may come later.
    pub fn new(dir: &Path, from: Option<Position>) -> Self {
        Self {
            live_path: dir.join("redo.log"),
            archive: dir.join("archive"),
            current: None,
            from,
            transactions: Transactions::default(),
            shared: HashMap::new(),
            shared_order: VecDeque::new(),
            changes: HashMap::new(),
        }
    }

    /// Where to start again once everything told so far is applied; `None`: nothing was read yet.
    pub fn position(&self) -> Option<Position> {
        let reached = self.current.as_ref().map(|c| Position { sequence: c.sequence, offset: c.scanner.pos() });
        // While it is still read up to where it was, the old position holds.
        reached.max(self.from)
    }

    /// What comes next; `None`: nothing now.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Found>, FollowError> {
        loop {
            let Some(current) = &mut self.current else {
                match self.begin()? {
                    Some(Some(gap)) => return Ok(Some(gap)),
                    Some(None) => continue,
                    None => return Ok(None),
                }
            };
            let path = current.path.clone();
            let failed = |source| FollowError::Io { path: path.clone(), source };
            let sequence = current.sequence;
            let step = current.scanner.step().map_err(failed)?;
            let at = Position { sequence, offset: current.scanner.pos() };
            let told = self.from.is_none_or(|from| at > from);
            match step {
                Step::Record(record) => {
                    let file = Arc::clone(&current.file);
                    if let Some(found) = self.record(record, file, sequence)
                        && told
                    {
                        return Ok(Some(found));
                    }
                }
                Step::Skipped(skipped) => {
                    if told {
                        return Ok(Some(Found::Damaged { sequence, skipped }));
                    }
                }
                Step::Torn { at, left, last_good } if !current.live => {
                    let why = "the file was closed, and yet ends inside of a record";
                    let skipped = Skipped { from: at, to: at + left, why, last_good };
                    if told {
                        return Ok(Some(Found::Damaged { sequence, skipped }));
                    }
                }
                Step::Torn { .. } | Step::End => {
                    let before = current.scanner.pos();
                    let grown = current.file.len().map_err(failed)?;
                    let short = grown < before || self.from.is_some_and(|f| f.sequence == sequence && f.offset > grown);
                    if short {
                        current.scanner.refresh(current.live).map_err(failed)?;
                        // What comes from here on is new, whatever stood there before.
                        self.from = None;
                        return Ok(Some(Found::Shortened { sequence, to: grown }));
                    }
                    if grown > current.scanner.end() {
                        current.scanner.refresh(current.live).map_err(failed)?;
                        continue;
                    }
                    if current.live {
                        if self.is_live()? {
                            return Ok(None);
                        }
                        // It has another name now, or none: the server has closed it, and what it ends with is its end.
                        if let Some(current) = &mut self.current {
                            current.live = false;
                            current.scanner.refresh(false).map_err(failed)?;
                        }
                        continue;
                    }
                    match self.advance()? {
                        Some(Some(gap)) => return Ok(Some(gap)),
                        Some(None) => {}
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// Whether the current file still has the live name.
    fn is_live(&self) -> Result<bool, FollowError> {
        let Some(current) = &self.current else { return Ok(false) };
        match std::fs::metadata(&self.live_path) {
            Ok(meta) => Ok((meta.dev(), meta.ino()) == current.identity),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(FollowError::Io { path: self.live_path.clone(), source }),
        }
    }

    fn record(&mut self, record: Record, file: Arc<File>, sequence: i64) -> Option<Found> {
        let (head, offset) = (record.head, record.offset);
        match self.transactions.take(record, file) {
            Fate::Committed(change) => {
                let (record, file) = *change;
                if record.head.code == STORE_INCOMING_BLOB {
                    self.share(&record, file);
                    return None;
                }
                let jump_from = self.jump(record.head.mailbox, record.head.change);
                let own = record.data().map(|(extent, size)| Blob { file: Arc::clone(&file), extent, size });
                let linked = record.text("body") == Some("link");
                let content = match own {
                    None if linked => record.text("path").and_then(|path| self.shared.get(path)).cloned(),
                    own => own,
                };
                Some(Found::Change(Box::new(Committed {
                    content_missing: linked && content.is_none(),
                    record,
                    file,
                    content,
                    jump_from,
                    commit: Position { sequence, offset },
                    committed_ms: head.time_ms,
                })))
            }
            Fate::Orphan => {
                let at = Position { sequence, offset };
                Some(Found::Orphan { mailbox: head.mailbox, transaction: head.transaction, at })
            }
            Fate::Open | Fate::Again | Fate::CommittedAgain | Fate::Aborted | Fate::Nothing => None,
        }
    }

    /// Notes a change number; the one before it, when this is not the next. One number may stand for several records.
    fn jump(&mut self, mailbox: i64, change: i32) -> Option<i32> {
        if mailbox <= 0 || change < 0 {
            return None;
        }
        let before = self.changes.insert(mailbox, change)?;
        let follows = before == change || before.checked_add(1) == Some(change);
        (!follows).then_some(before)
    }

    fn share(&mut self, record: &Record, file: Arc<File>) {
        let (Some(path), Some((extent, size))) = (record.text("path"), record.data()) else { return };
        if self.shared.insert(path.to_owned(), Blob { file, extent, size }).is_none() {
            self.shared_order.push_back(path.to_owned());
        }
        if self.shared_order.len() > SHARED_MAX
            && let Some(oldest) = self.shared_order.pop_front()
        {
            self.shared.remove(&oldest);
        }
    }

    /// Every file there is, by sequence. The live file is looked at before the archive and again after it: what is rolled over
    /// in between is seen in one of the places.
    fn files(&self) -> Result<Vec<LogFile>, FollowError> {
        let live = |files: &mut Vec<PathBuf>| files.push(self.live_path.clone());
        let mut paths = Vec::new();
        live(&mut paths);
        match std::fs::read_dir(&self.archive) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(|source| FollowError::Io { path: self.archive.clone(), source })?;
                    if entry.file_name().to_str().and_then(sequence_of).is_some() {
                        paths.push(entry.path());
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FollowError::Io { path: self.archive.clone(), source }),
        }
        live(&mut paths);
        let mut logs = LogFiles::open(&paths);
        // Files vanish when they are rolled over; everything else that cannot be read must not be passed over.
        let gone = |u: &Unread| matches!(&u.source, crate::redolog::header::HeaderError::Io(e) if e.kind() == io::ErrorKind::NotFound);
        logs.unread.retain(|u| !gone(u));
        match logs.unread.pop() {
            Some(unread) => Err(unread.into()),
            None => Ok(logs.found),
        }
    }

    fn enter(&mut self, log: LogFile) -> Result<(), FollowError> {
        let file = Arc::new(log.file);
        let live = log.path == self.live_path;
        let scanner = Scanner::new(Arc::clone(&file), HEADER_LEN, live)
            .map_err(|source| FollowError::Io { path: log.path.clone(), source })?;
        self.current = Some(Current {
            path: log.path,
            file,
            scanner,
            sequence: log.header.sequence,
            server_id: log.header.server_id,
            identity: log.identity,
            live,
        });
        Ok(())
    }

    /// Opens the first file. `None`: there is none yet; inner: what is to be told first.
    #[allow(clippy::option_option)]
    fn begin(&mut self) -> Result<Option<Option<Found>>, FollowError> {
        let files = self.files()?;
        let Some(from) = self.from else {
            let Some(first) = files.into_iter().next() else { return Ok(None) };
            self.enter(first)?;
            return Ok(Some(None));
        };
        let newest = files.last().map(|f| f.header.sequence);
        let Some(newest) = newest else { return Ok(None) };
        if files.iter().any(|f| f.header.sequence == from.sequence) {
            // The one before it, if it is there, for content that is only named from here on.
            let start = files.into_iter().find(|f| f.header.sequence >= from.sequence.saturating_sub(1));
            if let Some(start) = start {
                self.enter(start)?;
            }
            return Ok(Some(None));
        }
        let after = from.sequence;
        self.from = None;
        // Behind the position if there is anything; else the log has begun anew.
        let next = files.into_iter().find(|f| newest < after || f.header.sequence > after);
        let Some(next) = next else { return Ok(None) };
        let before = next.header.sequence;
        self.enter(next)?;
        Ok(Some(Some(Found::Gap { after, before })))
    }

    /// Goes on to the file that follows. `None`: it is not there yet; inner: what is to be told first.
    #[allow(clippy::option_option)]
    fn advance(&mut self) -> Result<Option<Option<Found>>, FollowError> {
        let Some(current) = &self.current else { return Ok(None) };
        let (sequence, server, identity) = (current.sequence, current.server_id.clone(), current.identity);
        let files = self.files()?;
        // From the largest number the server goes on with 0.
        let follows = sequence.checked_add(1).unwrap_or(0);
        let mut higher = None;
        let mut anew = None;
        for log in files {
            let number = log.header.sequence;
            if number == follows && log.header.server_id == server {
                self.enter(log)?;
                return Ok(Some(None));
            }
            if number > sequence && higher.is_none() {
                higher = Some(log);
            } else if log.path == self.live_path && log.identity != identity {
                anew = Some(log);
            }
        }
        let Some(next) = higher.or(anew) else { return Ok(None) };
        let before = next.header.sequence;
        self.from = None;
        if before <= sequence || next.header.server_id != server {
            // Another life of the server: its transactions are not those that were seen.
            self.transactions = Transactions::default();
            self.shared.clear();
            self.shared_order.clear();
            self.changes.clear();
        }
        self.enter(next)?;
        Ok(Some(Some(Found::Gap { after: sequence, before })))
    }
}
