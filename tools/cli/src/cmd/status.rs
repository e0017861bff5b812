//! `status`: what is followed, what is in doubt, and the recovery point.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, control, out};
use mailstrata_backup::{resolve, scan};
use std::io::Write as _;

/// Show what a running `watch` follows, which accounts are in doubt, and how long a change takes to be safe.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(g: &Global, _args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let path = super::watch::status_path(&out::store_dir(g)?);
    let mut said: serde_json::Value = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => serde_json::json!({"running": false, "sources": []}),
        Err(e) => return Err(Failure::new(Code::Failed, format!("{}: {e}", path.display()))),
    };
    // A `watch` that was killed could not say so itself, and its number may be another process's by now. One in another
    // network namespace is not heard.
    let pid = said["pid"].as_u64().unwrap_or(0);
    let writer = control::ask(&out::store_dir(g)?, &control::Request::Who, &mut |_| true)?;
    let answers = writer.as_ref().is_some_and(|w| w["pid"] == pid);
    let alive = said["running"] == true
        && (answers || writer.is_none() && std::path::Path::new(&format!("/proc/{pid}")).exists());
    said["writer"] = writer.unwrap_or_default();
    let crashed = said["running"] == true && !alive;
    said["running"] = alive.into();
    said["crashed"] = crashed.into();
    let view = reader.view();
    let mut doubts = Vec::new();
    for hit in view.accounts()? {
        let own = view.with_record(&hit, |_, r| resolve::own_key(r.account.as_slice()));
        let gone = own.ok().and_then(|key| view.locate(hit.account(), key, None).transpose()).transpose()?;
        if gone.is_some_and(|h| h.deleted()) {
            continue;
        }
        if let Some(gap) = scan::gaps(&view, hit.account())?.into_iter().find(|g| g.until.is_none()) {
            let address = view.with_record(&hit, |_, r| out::text(r.account.as_slice())).unwrap_or_default();
            doubts.push(serde_json::json!({"account": address, "account_id": hit.account().to_string(), "since": out::moment(gap.from)}));
        }
    }
    said["in_doubt"] = doubts.clone().into();
    let mut to = out::stdout();
    if g.json {
        out::json_line(&mut to, &said)?;
        to.flush()?;
        return Ok(Code::Done);
    }
    match (alive, pid) {
        (true, _) => writeln!(to, "watch runs (process {pid}), as of {}", said["updated"].as_str().unwrap_or("?"))?,
        _ if crashed => writeln!(
            to,
            "nothing is followed: `watch` (process {pid}) ended unexpectedly, last heard of at {}; every account is in doubt \
             since then, until `watch` or `scan` runs",
            said["updated"].as_str().unwrap_or("?")
        )?,
        (false, 0) => writeln!(to, "nothing is followed: no `watch` has run on this store")?,
        (false, _) => {
            writeln!(to, "nothing is followed: `watch` last ran until {}", said["updated"].as_str().unwrap_or("?"))?
        }
    }
    for s in said["sources"].as_array().into_iter().flatten() {
        let status = &s["status"];
        writeln!(
            to,
            "{}: {} accounts, by {} ({} watches)",
            s["source"].as_str().unwrap_or("?"),
            status["accounts"],
            status["backend"].as_str().unwrap_or("?"),
            status["watches"]
        )?;
        let c = &status["counts"];
        writeln!(
            to,
            "  {} arrived, {} changed, {} moved, {} deleted, {} gone before they were read, {} errors",
            c["added"], c["changed"], c["moved"], c["deleted"], c["unseen"], c["errors"]
        )?;
        let l = &status["latency"];
        let ms = |k: &str| l[k].as_f64().unwrap_or(0.0) / 1e3;
        writeln!(
            to,
            "  recovery point over {} changes: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            l["count"],
            ms("p50"),
            ms("p90"),
            ms("p99"),
            ms("max")
        )?;
    }
    for d in &doubts {
        writeln!(
            to,
            "in doubt since {}: {}",
            d["since"].as_str().unwrap_or("?"),
            d["account"].as_str().unwrap_or("?")
        )?;
    }
    to.flush()?;
    Ok(Code::Done)
}
