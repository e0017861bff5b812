//! The layout that the store replaces: one JSON file an item, one file a body, each made durable with its directory.
//!
//! Bodies are packed with zstd at the engine's level instead of gzip, which favours this layout: gzip alone would take 5 to
//! 20 times as long. A body that is there already is not written again.

use crate::{Outcome, mail};
use mailstrata_engine::blob::entry::LEVEL;
use mailstrata_format::Digest;
use serde_json::json;
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Directories that items and bodies are spread over.
const FAN: u64 = 256;

thread_local! {
    /// A compressor takes longer to make than to use.
    static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// A body as this layout and the other stores keep it.
pub fn pack(body: &[u8]) -> Outcome<Vec<u8>> {
    PACKER.with_borrow_mut(|packer| {
        let packer = match packer {
            Some(p) => p,
            None => packer.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        Ok(packer.compress(body)?)
    })
}

/// A tree of loose files.
pub struct Loose {
    items: PathBuf,
    bodies: PathBuf,
}

impl Loose {
    /// Makes the directories.
    pub fn create(dir: &Path) -> Outcome<Self> {
        let (items, bodies) = (dir.join("items"), dir.join("bodies"));
        for n in 0..FAN {
            fs::create_dir_all(items.join(format!("{n:02x}")))?;
            fs::create_dir_all(bodies.join(format!("{n:02x}")))?;
        }
        Ok(Self { items, bodies })
    }

    /// Item `n` and its body; durable when this returns.
    pub fn put(&self, n: u64, body: &[u8]) -> Outcome {
        let digest = Digest::of(body);
        let name = digest.to_string();
        let dir = self.bodies.join(format!("{:02x}", digest.0[0]));
        let path = dir.join(&name);
        if !path.exists() {
            write(&dir, &path, &pack(body)?)?;
        }
        let record = json!({
            "account": mail::address(n), "item": n, "kind": "message", "op": "put", "at": mail::moment(n, 0),
            "state": {"folder": "INBOX", "flags": ["\\Recent"], "name": format!("message {n} about the meeting on Thursday"),
                "sender": "sender@example.net", "date": mail::moment(n, 0), "uid": n},
            "blob": {"digest": name, "length": body.len()}, "source": {"name": "maildir", "position": format!("{n:012}:0")},
        });
        let dir = self.items.join(format!("{:02x}", n % FAN));
        write(&dir, &dir.join(format!("{n}.json")), record.to_string().as_bytes())
    }
}

fn write(dir: &Path, path: &Path, bytes: &[u8]) -> Outcome {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = match made {
        // Another producer has the same body at the same time.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    };
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(File::open(dir)?.sync_all()?)
}
