//! What a restore reads: every message of an account, then their bodies in the order in which they lie, each verified.
//!
//! The accounts of this store were written at the same time, so an account's bodies share their chunks with those of nine
//! others: the worst case of a chunk cache. The ceiling is the CPU's part of the same mails, from memory: zstd and SHA-256. *Cold* starts with the store's files in
//! no cache.

use crate::mail::{self, Corpus};
use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, ceiling, fixture, process};
use mailstrata_engine::{Options, Store, View};
use mailstrata_format::AccountId;
use std::time::Instant;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let options = Options::new()?;
    let account = 3;
    let numbers = (account..bench.scale.items).step_by(usize::try_from(mail::ACCOUNTS)?);
    let packed = ceiling::Packed::new(&Corpus::default(), numbers)?;
    let id = AccountId::of_address(mail::address(account).as_bytes(), 1);
    let (mut cold, mut hot, mut mails) = (Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        let bare = packed.unpack()?;
        process::forget(&dir)?;
        // The first reading warms the page cache for the second.
        for rounds in [&mut cold, &mut hot] {
            let reader = Store::open_read(&dir, &options)?;
            let begin = Instant::now();
            let (count, bytes) = read(&reader.view(), id)?;
            let seconds = begin.elapsed().as_secs_f64();
            rounds.add(bytes as f64 / seconds / 1e6, bare / 1e6);
            mails.add_bare(count as f64 / seconds);
        }
    }
    let what = "zstd and SHA-256 of the same mails, from memory";
    report.add("restore", "an account, cold", "MB/s", &cold, what, Goal::None);
    report.add("restore", "an account, hot", "MB/s", &hot, what, Goal::None);
    report.add("restore", "messages of an account", "1/s", &mails, "", Goal::None);
    Ok(())
}

/// Messages and bytes of an account.
fn read(view: &View, account: AccountId) -> Outcome<(u64, u64)> {
    let mut bodies = Vec::new();
    for hit in view.items(account, None)? {
        let transaction = view.read(&hit?)?;
        let body = transaction.content().ok_or("a message has no body")?;
        let extent = view.extent(&body.digest)?.ok_or("a body is in no pack")?;
        bodies.push((extent.pack, extent.entry_offset, extent.raw_offset, body.digest));
    }
    bodies.sort_unstable();
    let mut bytes = 0;
    for (.., digest) in &bodies {
        bytes += view.read_blob(digest, &mut |part| {
            std::hint::black_box(part);
            Ok(())
        })?;
    }
    Ok((bodies.len() as u64, bytes))
}
