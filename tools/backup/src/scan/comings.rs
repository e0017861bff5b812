//! Folders and accounts that come and go while they are followed.
//!
//! In comes the hint that something did, out go transactions of folders and accounts, and requests for scans, which see to what is
//! in them. What is missing from one listing is looked for again: a directory that is renamed while its parent is read can be missed.

use super::known::{Known, digest_of};
use super::settle::{Follow, exactly};
use super::smart::delete_account;
use super::window::{Half, Held};
use super::{Result, locked, now_us, shown};
use mailstrata_mailstore::source::{Account, Presence, Source as _};
use std::sync::Arc;
use std::time::Duration;

impl Follow<'_> {
    /// Folders came, went, or are called otherwise; or subscriptions or keywords changed, which a scan sees to.
    pub(super) fn folders(&mut self, account: &Arc<Account>) -> Result<()> {
        let scan = &self.shared.scan;
        let at = now_us();
        let shared = scan.registry.get(self.shared.store, &account.address)?;
        let Ok(mut folders) = scan.source.folders(account, &mut |_| {}) else {
            self.shared.requests.ask(&account.address, Duration::ZERO);
            return Ok(());
        };
        let mut live = locked(&shared);
        let missing =
            live.slots.iter().any(|s| !s.gone && s.native.is_some() && !folders.found.iter().any(|f| f.path == s.path));
        if missing {
            // One that is renamed while the names are read can be missed: what is missing twice is gone.
            match scan.source.folders(account, &mut |_| {}) {
                Ok(again) if folders.found.iter().all(|f| again.found.iter().any(|a| a.path == f.path)) => {
                    folders = again
                }
                _ => {
                    self.shared.requests.ask(&account.address, Duration::ZERO);
                    return Ok(());
                }
            }
        }
        live.record_account(self.shared.store, exactly(at))?;
        let synced = live.sync_folders(self.shared.store, &scan.source, account, &folders, exactly(at))?;
        for slot in &synced.gone {
            let inside: Vec<Known> = live.known.iter().filter(|k| k.slot() == *slot).copied().collect();
            for known in inside {
                // A server empties a folder into another before it removes it.
                let digest = (!known.unread()).then_some(known.digest);
                let came = self.window.take_arrival(account, known.object, digest);
                if let Some(Held { half: Half::Arrival { slot, entry, content }, place, at, .. }) = &came
                    && (known.unread() || digest_of(&content.blob.digest) == known.digest)
                    && live.known.get(*place).is_none()
                {
                    live.move_to(self.shared.store, known.place(), None, *slot, entry, exactly(*at))?;
                    self.shared.tally.count(|c| c.moved += 1);
                    continue;
                }
                came.into_iter().for_each(|held| self.window.hold(held));
                live.delete(self.shared.store, known.place(), None, exactly(at))?;
                self.shared.tally.count(|c| c.deleted += 1);
            }
            live.delete_folder(self.shared.store, *slot, exactly(at))?;
        }
        let touched = synced.added + synced.changed + synced.gone.len() as u64;
        if touched > 0 {
            self.shared.tally.count(|c| c.folders += touched);
            self.acknowledge(&live, at);
        }
        drop(live);
        self.shared.requests.ask(&account.address, Duration::ZERO);
        Ok(())
    }

    /// Users came or went.
    pub(super) fn accounts_changed(&mut self) -> Result<()> {
        let source = &self.shared.scan.source;
        let looked = source.accounts(&mut |_| {}).and_then(|_| source.accounts(&mut |_| {}));
        let all: Vec<Vec<u8>> = self.accounts.found.iter().map(|a| a.address.clone()).collect();
        let now = match looked {
            Ok(now) => now,
            Err(e) => return self.shared.doubt(None, &all, &e.to_string(), now_us()),
        };
        let gone = self.accounts.found.iter().filter(|a| now.presence(a) == Presence::Gone).count();
        if all.len() > 1 && gone * 2 > all.len() {
            let why = "most accounts are not there any more; that looks like a file system that is not mounted";
            locked(&self.shared.report).alarms.add(why);
            return self.shared.doubt(None, &all, why, now_us());
        }
        for account in &now.found {
            if self.accounts.presence(account) != Presence::Present {
                self.shared.tally.doubt(&account.address, "new");
                self.shared.requests.ask(&account.address, Duration::ZERO);
            }
        }
        for account in &self.accounts.found {
            if now.presence(account) == Presence::Gone {
                let (store, address) = (self.shared.store, &account.address);
                self.shared.scan.registry.forget(address)?;
                delete_account(store, store.account_of(address)?, address, |_| {})?;
                self.shared.marks.forget(address);
                self.shared.tally.clear(address);
                let mut report = locked(&self.shared.report);
                report.accounts.deleted += 1;
                report.alarms.add(format!("account {} is gone; recorded as deleted", shown(address)));
            }
        }
        self.shared.tally.update(|s| s.accounts = now.found.len() as u64);
        self.accounts = now;
        Ok(())
    }
}
