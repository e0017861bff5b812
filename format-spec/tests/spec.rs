//! SPEC.md and the code say the same: its tables are made from the declarations.
//!
//! `UPDATE_SPEC=1` rewrites the tables instead of comparing them.

use mailstrata_format::{DamageKind, FileKind, FileName, ItemKind, NoteKind, frame, index, pack, segment};
use std::path::PathBuf;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")
}

/// The generated blocks, in the order in which SPEC.md shows them.
fn blocks() -> Vec<(&'static str, String)> {
    let mut all: Vec<_> = mailstrata_format::tables().iter().map(|t| (t.name, t.markdown())).collect();
    let mut add = |name, head: &str, rows: Vec<String>| all.push((name, format!("{head}\n{}\n", rows.join("\n"))));
    let kinds = (1..=7).filter_map(FileKind::from_code);
    add(
        "FileKind",
        "| kind | file | example |\n| ---: | --- | --- |",
        kinds.map(|k| format!("| {} | {k:?} | `{}` |", k.code(), FileName::new(k, 12))).collect(),
    );
    let items = ItemKind::ALL.into_iter().chain([ItemKind::Cursor]);
    add(
        "ItemKind",
        "| code | item kind |\n| ---: | --- |",
        items.map(|k| format!("| {} | {} |", k.code(), k.name())).collect(),
    );
    add(
        "DamageKind",
        "| code | meaning |\n| --- | --- |",
        DamageKind::ALL.iter().map(|k| format!("| {} | {} |", k.code(), k.text())).collect(),
    );
    add(
        "NoteKind",
        "| code | meaning |\n| --- | --- |",
        NoteKind::ALL.iter().map(|k| format!("| {} | {} |", k.code(), k.text())).collect(),
    );
    let limits: [(&str, u64); 12] = [
        ("block, unit of groups and pack flushes", mailstrata_format::BLOCK as u64),
        ("alignment of frames, entries, chunks, trailers", mailstrata_format::ALIGN as u64),
        ("longest group", segment::GROUP_LEN_MAX as u64),
        ("longest frame, header included; longest payload before its codec", frame::FRAME_LEN_MAX as u64),
        ("most blobs that a frame names", frame::BLOBS_MAX as u64),
        ("most uncompressed bytes in a chunk", pack::CHUNK_RAW_MAX as u64),
        ("most stored bytes in a chunk", (pack::CHUNK_RAW_MAX + mailstrata_format::BLOCK) as u64),
        ("most blobs in an entry", pack::ENTRY_BLOBS_MAX as u64),
        ("longest blob", pack::BLOB_LEN_MAX),
        ("rows in an index block", index::ROWS_PER_BLOCK as u64),
        ("fences in an index block", index::FENCES_PER_BLOCK as u64),
        ("filter lines in an index block", index::LINES_PER_BLOCK as u64),
    ];
    add(
        "Limits",
        "| limit | value |\n| --- | ---: |",
        limits.iter().map(|(what, n)| format!("| {what} | {n} |")).collect(),
    );
    all
}

/// Where the content of a block lies in the text.
fn span(spec: &str, name: &str) -> std::ops::Range<usize> {
    let open = format!("<!-- table:{name} -->\n");
    let mut found = spec.match_indices(&open);
    let start = found.next().unwrap_or_else(|| panic!("SPEC.md has no {}", open.trim())).0 + open.len();
    assert!(found.next().is_none(), "SPEC.md has the table {name} twice");
    let end = start + spec[start..].find("<!-- /table -->").unwrap_or_else(|| panic!("table {name} does not end"));
    start..end
}

#[test]
fn spec_tables_match_the_code() {
    let mut spec = std::fs::read_to_string(path()).unwrap();
    let update = std::env::var_os("UPDATE_SPEC").is_some();
    for (name, markdown) in blocks() {
        let at = span(&spec, name);
        if update {
            spec.replace_range(at, &markdown);
        } else {
            assert_eq!(spec[at], markdown, "table {name}: UPDATE_SPEC=1 rewrites it");
        }
    }
    if update {
        std::fs::write(path(), &spec).unwrap();
    }
    assert_eq!(spec.matches("<!-- table:").count(), blocks().len(), "a table that nothing generates");
}
