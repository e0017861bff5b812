//! `diff`: what changed between two moments.

use crate::cmd::find::{End, bound};
use crate::exit::{Code, Outcome};
use crate::{Global, out};
use mailstrata_backup::diff::{Field, What, diff};
use mailstrata_backup::lines::to_line;
use mailstrata_engine::Transaction;
use mailstrata_mailstore::json::write_line;
use std::io::Write as _;

/// Show what changed in an account between two moments.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id.
    account: String,
    /// The earlier moment; `first`: before everything.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: String,
    /// The later one.
    #[arg(long, value_name = "TIME", default_value = "last", allow_hyphen_values = true)]
    to: String,
}

fn json_of(t: &Transaction) -> serde_json::Value {
    let mut bytes = Vec::new();
    let written = write_line(&to_line(t, true), &mut bytes);
    written.ok().and_then(|()| serde_json::from_slice(&bytes).ok()).unwrap_or(serde_json::Value::Null)
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let view = reader.view();
    let from = bound(&view, "--from", End::Lower, Some(&args.from))?;
    let to = bound(&view, "--to", End::Upper, Some(&args.to))?;
    let account = out::account(&view, &args.account)?;
    let mut to_out = out::stdout();
    let mut failed: Option<std::io::Error> = None;
    let summary = diff(&view, account, from, to, &mut |d| {
        let fields = |f: &[Field]| f.iter().map(|f| f.name().into_owned()).collect::<Vec<_>>();
        let written = if g.json {
            let line = match &d.what {
                What::Added { after } => serde_json::json!({"change": "added", "after": json_of(after)}),
                What::Removed { before, deleted } => {
                    serde_json::json!({"change": "removed", "before": json_of(before), "deleted": out::moment(*deleted)})
                }
                What::Moved { before, after, fields: f } => {
                    serde_json::json!({"change": "moved", "fields": fields(f), "before": json_of(before), "after": json_of(after)})
                }
                What::Changed { before, after, fields: f } => {
                    serde_json::json!({"change": "changed", "fields": fields(f), "before": json_of(before), "after": json_of(after)})
                }
                What::Damaged(e) => {
                    serde_json::json!({"change": "damaged", "key": d.hit.item().to_string(), "error": e.to_string()})
                }
            };
            writeln!(to_out, "{line}")
        } else {
            let place = |t: &Transaction| {
                format!(
                    "{}  {}  {}",
                    out::text_or(t.state.folder.as_deref(), "-"),
                    out::text_or(t.state.name.as_deref(), "-"),
                    t.item_key
                )
            };
            match &d.what {
                What::Added { after } => writeln!(to_out, "+ {}", place(after)),
                What::Removed { before, deleted } => {
                    writeln!(to_out, "- {}  (deleted {})", place(before), out::moment(*deleted))
                }
                What::Moved { before, after, fields: f } => writeln!(
                    to_out,
                    "> {}  (from {}; {})",
                    place(after),
                    out::text_or(before.state.folder.as_deref(), "-"),
                    fields(f).join(", ")
                ),
                What::Changed { after, fields: f, .. } => {
                    writeln!(to_out, "~ {}  ({})", place(after), fields(f).join(", "))
                }
                What::Damaged(e) => writeln!(to_out, "! {}  {e}", d.hit.item()),
            }
        };
        failed = written.err();
        failed.is_none()
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    if g.json {
        out::json_line(&mut to_out, &serde_json::json!({"summary": summary}))?;
    } else {
        writeln!(
            to_out,
            "{} added, {} removed, {} moved, {} changed, {} the same, {} came and went",
            summary.added, summary.removed, summary.moved, summary.changed, summary.same, summary.came_and_went
        )?;
    }
    to_out.flush()?;
    Ok(if summary.damaged > 0 { Code::Damage } else { Code::Done })
}
