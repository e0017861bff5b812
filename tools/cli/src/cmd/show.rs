//! `show`: one item's state.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_backup::lines::to_line;
use mailstrata_engine::{Transaction, Value};
use mailstrata_mailstore::json::LineWriter;
use std::io::Write as _;

/// Show one item's state, as it is or as it was.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id.
    account: String,
    /// Native id, or key of 32 hexadecimal digits.
    item: String,
    /// As of this moment.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
}

/// The state of the item that the command line names.
pub fn find(at: &out::At, account: &str, item: &str) -> Result<Transaction, Failure> {
    let account = out::account(&at.view, account)?;
    let key = out::item(&at.view, account, item)?;
    at.view
        .state(account, key, at.moment)?
        .ok_or_else(|| Failure::new(Code::NothingMatched, format!("item {item} did not exist then")))
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let at = out::resolve_at(reader.view(), args.at.as_deref())?;
    let t = find(&at, &args.account, &args.item)?;
    let mut lines = LineWriter::new(out::stdout());
    if g.json {
        lines.write(&to_line(&t, true))?;
        lines.get_mut().flush()?;
        return Ok(Code::Done);
    }
    let to = lines.get_mut();
    let mut field = |name: &str, value: String| writeln!(to, "{name:<12} {value}");
    let list = |l: &[Vec<u8>]| l.iter().map(|x| out::text(x)).collect::<Vec<_>>().join(" ");
    field("account", format!("{} ({})", out::text(&t.account), t.account_id))?;
    field("item", format!("{} ({})", out::text(&t.item), t.item_key))?;
    field("kind", t.kind.name().into())?;
    field("state", if t.deleted { "deleted".into() } else { "there".into() })?;
    field("since", out::moment(t.moment))?;
    if let Some(n) = t.not_before {
        field("", format!("seen by a scan: happened after {}", out::moment(n)))?;
    }
    field("lsn", format!("{} (recorded {})", t.lsn, out::moment(t.recorded)))?;
    let s = &t.state;
    let texts = [("folder", &s.folder), ("name", &s.name), ("sender", &s.sender)];
    for (name, value) in texts {
        if let Some(v) = value {
            field(name, out::text(v))?;
        }
    }
    if let Some(d) = s.date {
        field("date", out::moment(d))?;
    }
    if let Some(u) = s.uid {
        field("uid", u.to_string())?;
    }
    if let Some(f) = &s.flags {
        field("flags", list(f))?;
    }
    if let Some(f) = &s.tags {
        field("tags", list(f))?;
    }
    for (name, value) in &s.attributes {
        let (Value::Text(v) | Value::Json(v)) = value;
        field("attribute", format!("{} = {}", out::text(name), out::text(v)))?;
    }
    for b in &t.blobs {
        let role = b.role.as_ref().map_or("content".to_owned(), |r| out::text(r));
        field("blob", format!("{role} sha256:{} {} bytes", b.digest, b.length))?;
    }
    if t.content_unseen {
        field("content", "was there and could not be read".into())?;
    }
    to.flush()?;
    Ok(Code::Done)
}
