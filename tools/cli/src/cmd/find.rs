//! `find`: search over history.

use crate::cmd::items::parse_kind;
use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_backup::find::{Entry, Query, all_accounts, find};
use mailstrata_backup::lines::to_line;
use mailstrata_engine::View;
use mailstrata_mailstore::json::{LineWriter, percent_decode};
use mailstrata_mailstore::time::Moment;
use std::io::Write as _;

/// Search every version of every item.
///
/// All conditions must hold for one version. Text fits anywhere in a field, in either case. Deleted items are found too.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id; all accounts when it is left away.
    account: Option<String>,
    /// In subject, sender, folder or native id.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// In the sender.
    #[arg(long, value_name = "TEXT")]
    sender: Option<String>,
    /// In the subject.
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// In the folder's name.
    #[arg(long, value_name = "TEXT")]
    folder: Option<String>,
    /// Only items of this kind: message, folder, contact, ….
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Versions from this moment or before.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    before: Option<String>,
    /// Versions from this moment or later.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    after: Option<String>,
    /// Only items that are deleted now.
    #[arg(long)]
    deleted: bool,
    /// Only items that are there now.
    #[arg(long, conflicts_with = "deleted")]
    alive: bool,
}

/// Which end of a span a bound is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Lower,
    Upper,
}

/// A bound given as a time; `None` bounds nothing: from `first` on, or up to `last`.
pub fn bound(view: &View, what: &str, end: End, given: Option<&str>) -> Result<Option<i64>, Failure> {
    let Some(given) = given else { return Ok(None) };
    let span = view.span();
    match out::parse_moment(what, given)? {
        Moment::At(t) => {
            eprintln!("{what} {}", out::moment(t));
            Ok(Some(t))
        }
        Moment::First => Ok(span.map(|s| s.0).filter(|_| end == End::Upper)),
        Moment::Last => Ok(span.map(|s| s.1).filter(|_| end == End::Lower)),
        Moment::Lsn(_) => Err(Failure::usage(format!("{what} takes a moment, not an LSN"))),
    }
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let view = reader.view();
    let bytes = |t: &Option<String>| t.as_ref().map(|t| percent_decode(t));
    let query = Query {
        text: bytes(&args.text),
        sender: bytes(&args.sender),
        subject: bytes(&args.subject),
        folder: bytes(&args.folder),
        kind: parse_kind(args.kind.as_deref())?,
        after: bound(&view, "--after", End::Lower, args.after.as_deref())?,
        before: bound(&view, "--before", End::Upper, args.before.as_deref())?,
        deleted: if args.deleted {
            Some(true)
        } else if args.alive {
            Some(false)
        } else {
            None
        },
    };
    let accounts = match &args.account {
        Some(a) => vec![out::account(&view, a)?],
        None => all_accounts(&view)?,
    };
    let mut lines = LineWriter::new(out::stdout());
    let mut failed: Option<std::io::Error> = None;
    let mut damaged = 0u64;
    let count = find(&view, &accounts, &query, &mut |entry| {
        let written = match entry {
            Entry::Found(f) if g.json => lines.write(&to_line(&f.state, true)),
            Entry::Found(f) => {
                let gone = f.deleted.map_or(String::new(), |d| format!("  deleted {}", out::moment(d)));
                let s = &f.state.state;
                writeln!(
                    lines.get_mut(),
                    "{}  {}  {}  {:<16} {}  {}{gone}",
                    f.state.item_key,
                    out::moment(f.state.moment),
                    out::text(&f.state.account),
                    out::text_or(s.folder.as_deref(), "-"),
                    out::text_or(s.sender.as_deref(), "-"),
                    out::text_or(s.name.as_deref(), "-"),
                )
            }
            Entry::Damaged(hit, e) => {
                damaged += 1;
                eprintln!("a version of item {} is damaged and was not searched: {e}", hit.item());
                Ok(())
            }
        };
        failed = written.err();
        failed.is_none()
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    lines.get_mut().flush()?;
    if damaged > 0 {
        return Ok(Code::Damage);
    }
    Ok(if count == 0 { Code::NothingMatched } else { Code::Done })
}
