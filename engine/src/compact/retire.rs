//! Removes what runs replaced, once nobody can need it.
//!
//! A retired file stays for the delay (a plain copy may be under way, P9), as long as a view of this process has it (its
//! [`crate::catalog::Pin`]), and as long as another process holds a lock on an older generation in `READERS`. A clock that
//! was set back makes it stay longer.

use super::{Compactor, State};
use crate::commit::upkeep::remove_if_there;
use crate::commit::writer::locked;
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use mailstrata_format::manifest::RETIRED;
use mailstrata_format::{FileKind, FileName};
use std::io;

impl Compactor {
    /// How many were removed.
    pub(super) fn remove_retired(&self, state: &mut State) -> Result<u64> {
        let shared = &*self.shared;
        let now = shared.clock.now();
        let due: Vec<FileName> = locked(&shared.manifest)
            .entries
            .iter()
            .filter(|e| e.state == RETIRED && now.saturating_sub(e.retired) >= self.delay)
            .filter_map(|e| Some(FileName::new(FileKind::from_code(e.kind)?, e.number)))
            .collect();
        let mut gone: Vec<FileName> = Vec::new();
        for name in due {
            let generation = match state.retired.get(&name) {
                Some(r) if r.pin.is_held() => continue,
                Some(r) => r.generation,
                None => self.opened_at,
            };
            if self.may_be_read(generation)? {
                continue;
            }
            remove_if_there(&shared.files, &shared.files.path(name))?;
            shared.files.forget(name);
            gone.push(name);
        }
        if gone.is_empty() {
            return Ok(0);
        }
        // Durably gone before the manifest forgets them, or a power cut would bring them back unnamed.
        for sub in ["log", "run"] {
            let dir = shared.files.dir.join(sub);
            shared.files.disk.sync_dir(&dir).map_err(Error::io("syncing", dir))?;
        }
        shared.update_manifest(|m| {
            m.entries.retain(|e| !gone.iter().any(|n| (n.kind.code(), n.number) == (e.kind, e.number)));
        })?;
        gone.iter().for_each(|name| drop(state.retired.remove(name)));
        Ok(gone.len() as u64)
    }

    /// Whether a reader that opened the store before a generation is still there.
    fn may_be_read(&self, generation: u64) -> Result<bool> {
        let path = self.shared.files.dir.join("READERS");
        let file = match self.shared.files.disk.open(&path, OpenMode::Read) {
            // Nobody can hold a lock on what is not there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(Error::io("opening", &path))?,
        };
        file.is_locked_below(generation).map_err(Error::io("asking for locks on", path))
    }
}
