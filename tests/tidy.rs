//! The order of the engine's modules, kept by reading their `use` lines; and what may not stand anywhere in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                out.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            out.push((path, text));
        }
    }
    out
}

/// A file's code: without its tests and its comments.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]").next().unwrap_or_default();
    body.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What each module of the engine may use. A module not named here may use nothing of the engine.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("error", &[][..]),
        ("disk", &[]),
        ("ingest::event", &[]),
        // It must not trust the code it judges.
        ("check", &["disk", "error"]),
        ("files", &["disk", "error"]),
        ("index", &["disk", "error", "files"]),
        ("catalog", &["error", "files", "index", "log"]),
        ("log", &["disk", "error"]),
        ("blob", &["catalog", "disk", "error", "files", "index"]),
        ("view", &["blob", "catalog", "disk", "error", "files", "index", "ingest::event", "log"]),
        ("commit", &["blob", "catalog", "disk", "error", "files", "index"]),
        ("ingest", &["blob", "catalog", "commit", "error", "files", "index", "ingest::event", "view"]),
        ("tail", &["commit", "error", "files", "view"]),
        ("runs", &["commit", "disk", "error", "files", "index", "log"]),
        ("open", &["blob", "catalog", "commit", "disk", "error", "files", "index", "log", "runs", "store"]),
        ("compact", &["catalog", "commit", "disk", "error", "files", "index", "log"]),
        (
            "store",
            &[
                "blob",
                "catalog",
                "commit",
                "compact",
                "disk",
                "error",
                "files",
                "index",
                "ingest",
                "ingest::event",
                "open",
                "tail",
                "view",
            ],
        ),
    ])
}

fn module_of(path: &Path, engine: &Path) -> String {
    let rest = path.strip_prefix(engine).unwrap().with_extension("");
    let parts: Vec<_> = rest.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts == ["ingest", "event"] { "ingest::event".into() } else { parts[0].clone() }
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let engine = root().join("engine/src");
    let allowed = allowed();
    let mut checked = 0;
    for (path, text) in sources(&engine) {
        let module = module_of(&path, &engine);
        if module == "lib" {
            continue;
        }
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not in the table"));
        for piece in code(&text).split("crate::").skip(1) {
            let used = if piece.starts_with("ingest::event") {
                "ingest::event".to_owned()
            } else {
                piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
            };
            checked += 1;
            let own = used == module || (module == "ingest" && used == "ingest::event");
            assert!(own || may.contains(&used.as_str()), "{}: {module} uses {used}", path.display());
        }
    }
    assert!(checked > 80, "only {checked} uses found: the test does not see the code");
}

#[test]
fn files_time_and_randomness_come_through_the_seam() {
    let engine = root().join("engine/src");
    for (path, text) in sources(&engine) {
        let code = code(&text);
        let seam = path.starts_with(engine.join("disk"));
        for banned in ["std::fs", "File::open", "Instant::now", "SystemTime::now", "rand::"] {
            assert!(seam || !code.contains(banned), "{}: {banned}", path.display());
        }
        for banned in ["access_unchecked", "todo!(", "unimplemented!(", ".unwrap()", "dbg!("] {
            assert!(!code.contains(banned), "{}: {banned}", path.display());
        }
    }
}

#[test]
fn the_format_does_no_io_and_decodes_without_panics() {
    for (path, text) in sources(&root().join("format-spec/src")) {
        let code = code(&text);
        for banned in ["std::fs", "std::io", ".unwrap()", ".expect(", "access_unchecked", "panic!("] {
            assert!(!code.contains(banned), "{}: {banned}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stands_where_it_must() {
    let may = [
        "engine/src/disk/buffer.rs",
        "engine/src/disk/ofd.rs",
        "engine/src/disk/uring.rs",
        "tools/mailstore/src/maildir/watch/fanotify.rs",
    ];
    let root = root();
    for dir in ["format-spec/src", "engine/src", "tools"] {
        for (path, text) in sources(&root.join(dir)) {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            assert!(may.contains(&name.as_str()) || !code(&text).contains("unsafe "), "{name} has unsafe code");
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    let root = root();
    for dir in ["format-spec/src", "engine/src", "tools", "tests", "benches"] {
        for (path, text) in sources(&root.join(dir)) {
            assert!(text.starts_with("//!"), "{} does not open with its purpose", path.display());
        }
    }
}
