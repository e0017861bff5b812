//! `log`: one item's history.

use crate::exit::{Code, Outcome};
use crate::{Global, out};
use mailstrata_backup::lines::to_line;
use mailstrata_engine::{Error, Transaction};
use mailstrata_mailstore::json::LineWriter;
use std::io::Write as _;

/// Show every version of one item, oldest first.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id.
    account: String,
    /// Native id, or key of 32 hexadecimal digits.
    item: String,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let view = reader.view();
    let account = out::account(&view, &args.account)?;
    let item = out::item(&view, account, &args.item)?;
    let mut lines = LineWriter::new(out::stdout());
    let mut damaged = false;
    let mut before: Option<Transaction> = None;
    for hit in view.rows(account, item)? {
        match view.read(&hit) {
            Ok(t) if g.json => lines.write(&to_line(&t, true))?,
            Ok(t) => {
                let changes = before.as_ref().map_or_else(|| "first seen".to_owned(), |b| what_changed(b, &t));
                let interval = t.not_before.map_or(String::new(), |n| format!("  (not before {})", out::moment(n)));
                let op = t.operation.name();
                writeln!(lines.get_mut(), "lsn {:<8} {}  {op:<6} {changes}{interval}", t.lsn.0, out::moment(t.moment))?;
                before = Some(t);
            }
            Err(Error::Damage(d)) => {
                damaged = true;
                writeln!(lines.get_mut(), "lsn {:<8} DAMAGED: {d}", hit.row.lsn)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    lines.get_mut().flush()?;
    Ok(if damaged { Code::Damage } else { Code::Done })
}

/// The fields in which two versions differ, with their new values.
fn what_changed(b: &Transaction, t: &Transaction) -> String {
    let mut out = Vec::new();
    if b.deleted != t.deleted {
        out.push(if t.deleted { "deleted".to_owned() } else { "back again".to_owned() });
    }
    let list = |l: &Option<Vec<Vec<u8>>>| {
        l.as_ref().map_or("-".to_owned(), |l| l.iter().map(|x| out::text(x)).collect::<Vec<_>>().join(" "))
    };
    if b.state.folder != t.state.folder {
        out.push(format!("folder {}", out::text_or(t.state.folder.as_deref(), "-")));
    }
    if b.state.flags != t.state.flags {
        out.push(format!("flags [{}]", list(&t.state.flags)));
    }
    if b.state.tags != t.state.tags {
        out.push(format!("tags [{}]", list(&t.state.tags)));
    }
    if b.state.name != t.state.name {
        out.push(format!("name {}", out::text_or(t.state.name.as_deref(), "-")));
    }
    if b.blobs != t.blobs {
        out.push("content".to_owned());
    }
    if (&b.state.sender, b.state.date, b.state.uid) != (&t.state.sender, t.state.date, t.state.uid) {
        out.push("sender, date or uid".to_owned());
    }
    if b.state.attributes != t.state.attributes {
        out.push("attributes".to_owned());
    }
    if out.is_empty() { "the same again".to_owned() } else { out.join(", ") }
}
