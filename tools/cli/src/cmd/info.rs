//! `info`: identity and geometry of a store.

use crate::exit::{Code, Outcome};
use crate::{Global, out};
use mailstrata_format::StoreId;

/// Show what a store is: identity, format, sizes, first and last moment.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(g: &Global, _args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let (view, info) = (reader.view(), reader.info());
    let span = view.span();
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
            "segments": view.catalog().segments.len(),
            "packs": view.catalog().packs.len(),
            "damage": reader.findings().iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        out::json_line(&mut std::io::stdout(), &line)?;
    } else {
        println!("store         {}", info.store);
        println!("format        version {}", mailstrata_format::FORMAT_VERSION);
        println!("server        {}", server.unwrap_or_else(|| "any".into()));
        println!("created       {}", out::moment(info.created));
        println!("segments      {} (up to {})", view.catalog().segments.len(), out::size(info.segment_size));
        println!("packs         {} (up to {})", view.catalog().packs.len(), out::size(info.pack_size));
        println!("writes by     {}", backend);
        println!("last LSN      {}", view.lsn());
        if let Some((first, last)) = span {
            println!("first moment  {}", out::moment(first));
            println!("last moment   {}", out::moment(last));
        }
        for d in reader.findings() {
            println!("damage        {d}");
        }
    }
    Ok(if reader.findings().is_empty() { Code::Done } else { Code::Damage })
}
