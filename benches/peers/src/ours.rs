//! The engine, through its public interface.

use crate::subject::{Put, Subject};
use mailstrata_benches::{Outcome, mail, metadata};
use mailstrata_engine::{Create, Options, Store, Ticket};
use std::path::Path;

pub struct Ours(Store);

impl Ours {
    pub fn open(dir: &Path) -> Outcome<Self> {
        let options = Options::new()?;
        if !dir.join("SUPERBLOCK").exists() {
            Store::create(dir, &Create::default(), &options)?;
        }
        Ok(Self(Store::open(dir, &options)?))
    }
}

fn wait(tickets: Vec<mailstrata_engine::Result<Ticket>>) -> Outcome {
    let mut last = None;
    for ticket in tickets {
        last = Some(ticket?);
    }
    Ok(last.map_or(Ok(()), |t| t.wait().map(|_| ()))?)
}

impl Subject for Ours {
    fn put(&self, items: &[Put<'_>]) -> Outcome {
        if let [one] = items {
            let blobs = match one.body {
                Some(mut body) => vec![self.0.put_blob(&mut body)?],
                None => Vec::new(),
            };
            self.0.record(&mailstrata_engine::Event { at: Some(one.at), ..mail::arrival(one.n, blobs) })?;
            return Ok(());
        }
        let mut batch = self.0.batch();
        for put in items {
            let blobs = match put.body {
                Some(body) => vec![batch.put_bytes(body)?],
                None => Vec::new(),
            };
            batch.record(mailstrata_engine::Event { at: Some(put.at), ..mail::arrival(put.n, blobs) });
        }
        wait(batch.submit()?)
    }

    fn update(&self, items: &[(u64, i64)]) -> Outcome {
        let mut batch = self.0.batch();
        items.iter().for_each(|(n, at)| batch.record(metadata::update(*n, *at)));
        wait(batch.submit()?)
    }

    fn as_of(&self, n: u64, at: i64) -> Outcome<i64> {
        let (account, item) = mail::key(n);
        let view = self.0.view();
        let hit = view.locate(account, item, Some(at))?.ok_or("an item is not found")?;
        if view.with_record(&hit, |_, r| r.uid == n)? { Ok(hit.row.moment) } else { Err("another item".into()) }
    }
}
