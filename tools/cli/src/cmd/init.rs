//! `init`: create a store.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_engine::{Create, Store};
use mailstrata_format::StoreId;

/// Create a store in an empty directory.
#[derive(clap::Args)]
pub struct Args {
    /// Largest size of a log segment: bytes, or with K, M, G; 64K to 1G.
    #[arg(long, value_name = "N", default_value = "32M", value_parser = parse_size)]
    segment_size: u64,
    /// Largest size of a blob pack: bytes, or with K, M, G; 64K to 1T.
    #[arg(long, value_name = "N", default_value = "128M", value_parser = parse_size)]
    pack_size: u64,
}

/// A number of bytes with an optional binary unit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let t = text.trim();
    let digits = t.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match t[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" | "KB" => 1 << 10,
        "M" | "MIB" | "MB" => 1 << 20,
        "G" | "GIB" | "GB" => 1 << 30,
        "T" | "TIB" | "TB" => 1 << 40,
        other => return Err(format!("`{other}` is no unit; K, M, G and T are")),
    };
    let n: u64 = digits.parse().map_err(|_| format!("`{text}` is no size"))?;
    n.checked_mul(unit).ok_or_else(|| format!("`{text}` is too large"))
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let server = match &g.server_id {
        Some(t) => StoreId::parse(t).ok_or_else(|| Failure::usage(format!("--server-id: `{t}` is not a UUID")))?.0,
        None => [0; 16],
    };
    if !(64 << 10..=1 << 30).contains(&args.segment_size) {
        return Err(Failure::usage("--segment-size takes 64K to 1G"));
    }
    if !(64 << 10..=1 << 40).contains(&args.pack_size) {
        return Err(Failure::usage("--pack-size takes 64K to 1T"));
    }
    let create = Create { segment_size: args.segment_size, pack_size: args.pack_size, server };
    let dir = out::store_dir(g)?;
    let mut options = out::options(g, "init")?;
    options.server = None;
    let id = Store::create(&dir, &create, &options)?;
    if g.json {
        let line = serde_json::json!({"store": dir.to_string_lossy(), "id": id.to_string()});
        out::json_line(&mut std::io::stdout(), &line)?;
    } else {
        crate::say!("store {id} in {}", dir.display());
    }
    Ok(Code::Done)
}
