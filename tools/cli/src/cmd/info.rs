//! `info`: identity and geometry of a store.

use crate::exit::{Code, Outcome};
use crate::{Global, out};
use mailstrata_format::{FileKind, StoreId};

/// Show what a store is: identity, format, sizes, first and last moment.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(g: &Global, _args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let (view, info) = (reader.view(), reader.info());
    let span = view.span();
    let runs = view.catalog().segments.iter().filter(|s| s.name.kind == FileKind::Run).count();
    let segments = view.catalog().segments.len() - runs;
    let backend = out::options(g, "info")?.disk.backend();
    let server = (info.server != [0; 16]).then(|| StoreId(info.server).to_string());
    if g.json {
        let line = serde_json::json!({
            "store": info.store.to_string(),
            "format_version": mailstrata_format::FORMAT_VERSION,
            "server": server,
            "created": out::moment(info.created),
            "segment_size": info.segment_size,
            "pack_size": info.pack_size,
            "io": backend,
            "last_lsn": view.lsn().0,
            "first_moment": span.map(|s| out::moment(s.0)),
            "last_moment": span.map(|s| out::moment(s.1)),
            "segments": segments,
            "runs": runs,
            "packs": view.catalog().packs.len(),
            "damage": reader.findings().iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        out::json_line(&mut std::io::stdout(), &line)?;
    } else {
        crate::say!("store         {}", info.store);
        crate::say!("format        version {}", mailstrata_format::FORMAT_VERSION);
        crate::say!("server        {}", server.unwrap_or_else(|| "any".into()));
        crate::say!("created       {}", out::moment(info.created));
        crate::say!("segments      {segments} (up to {})", out::size(info.segment_size));
        crate::say!("runs          {runs}");
        crate::say!("packs         {} (up to {})", view.catalog().packs.len(), out::size(info.pack_size));
        crate::say!("writes by     {}", backend);
        crate::say!("last LSN      {}", view.lsn());
        if let Some((first, last)) = span {
            crate::say!("first moment  {}", out::moment(first));
            crate::say!("last moment   {}", out::moment(last));
        }
        for d in reader.findings() {
            crate::say!("damage        {d}");
        }
    }
    Ok(if reader.findings().is_empty() { Code::Done } else { Code::Damage })
}
