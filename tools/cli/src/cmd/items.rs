//! `items`: what an account holds, or held.

use crate::exit::{Code, Outcome};
use crate::{Global, out};
use mailstrata_backup::lines::to_line;
use mailstrata_engine::{Error, Hit};
use mailstrata_format::ItemKind;
use mailstrata_mailstore::json::LineWriter;
use std::io::Write as _;

/// List an account's items, as they are or as they were.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id.
    account: String,
    /// As of this moment.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Only this folder.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Only items that are deleted.
    #[arg(long)]
    deleted: bool,
    /// Only items of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

/// The kind that a command line names.
pub fn parse_kind(given: Option<&str>) -> Result<Option<ItemKind>, crate::exit::Failure> {
    given
        .map(|k| {
            ItemKind::from_name(k).ok_or_else(|| crate::exit::Failure::usage(format!("--kind: there is no kind `{k}`")))
        })
        .transpose()
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let kind = parse_kind(args.kind.as_deref())?;
    let reader = out::reader(g)?;
    let at = out::resolve_at(reader.view(), args.at.as_deref())?;
    let account = out::account(&at.view, &args.account)?;
    let folder = args.folder.as_ref().map(|f| mailstrata_mailstore::json::percent_decode(f));
    let mut lines = LineWriter::new(out::stdout());
    let mut damaged = 0u64;
    let meant = |hit: &Hit| hit.deleted() == args.deleted && kind.is_none_or(|k| hit.kind() == Some(k));
    let rows = at.view.items(account, at.moment)?.filter(|hit| hit.as_ref().map_or(true, meant));
    for hit in at.view.ahead(rows) {
        let hit = hit?;
        let t = match at.view.read(&hit) {
            Ok(t) => t,
            Err(Error::Damage(d)) => {
                eprintln!("item {} is damaged: {d}", hit.item());
                damaged += 1;
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        if folder.as_ref().is_some_and(|f| t.state.folder.as_ref() != Some(f)) {
            continue;
        }
        if g.json {
            lines.write(&to_line(&t, true))?;
            continue;
        }
        let flags = t
            .state
            .flags
            .as_ref()
            .map_or(String::new(), |f| f.iter().map(|x| out::text(x)).collect::<Vec<_>>().join(" "));
        writeln!(
            lines.get_mut(),
            "{}  {}  {:<8} {:<16} {}  [{}]  {}",
            t.item_key,
            out::moment(t.moment),
            t.kind.name(),
            out::text_or(t.state.folder.as_deref(), "-"),
            out::text_or(t.state.name.as_deref(), "-"),
            flags,
            out::text(&t.item),
        )?;
    }
    lines.get_mut().flush()?;
    Ok(if damaged > 0 { Code::Damage } else { Code::Done })
}
