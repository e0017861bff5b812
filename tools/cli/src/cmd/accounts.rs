//! `accounts`: whose mail there is, or was.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_format::{ItemKey, ItemKind};
use std::io::Write as _;

/// List accounts, as they are or as they were.
#[derive(clap::Args)]
pub struct Args {
    /// As of this moment.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let at = out::resolve_at(reader.view(), args.at.as_deref())?;
    let mut to = out::stdout();
    let mut shown = 0;
    let mut damaged = false;
    for hit in at.view.accounts()? {
        let id = hit.account();
        let (mut alive, mut deleted) = (0u64, 0u64);
        let mut named = None;
        for item in at.view.items(id, at.moment)? {
            let item = item?;
            if item.deleted() {
                deleted += 1
            } else {
                alive += 1
            }
            if named.is_none() {
                named = at.view.with_record(&item, |_, r| r.account.as_slice().to_vec()).ok();
            }
        }
        if alive + deleted == 0 {
            continue;
        }
        let address = named.unwrap_or_else(|| {
            damaged = true;
            id.to_string().into_bytes()
        });
        let own = ItemKey::of(ItemKind::Account.code(), &address);
        let gone = at.view.locate(id, own, at.moment)?.is_some_and(|h| h.deleted());
        shown += 1;
        if g.json {
            let line = serde_json::json!({"account": out::text(&address), "account_id": id.to_string(),
                "items": alive, "deleted_items": deleted, "deleted": gone});
            out::json_line(&mut to, &line)?;
        } else {
            let mark = if gone { "  (deleted)" } else { "" };
            writeln!(to, "{id}  {alive:>9} items {deleted:>9} deleted  {}{mark}", out::text(&address))?;
        }
    }
    to.flush()?;
    if damaged {
        return Ok(Code::Damage);
    }
    if shown == 0 && args.at.is_some() {
        return Err(Failure::new(Code::NothingMatched, "there was no account then"));
    }
    Ok(Code::Done)
}
