//! What is known of accounts, kept between uses within a bound on bytes.

use super::live::Live;
use super::{Result, locked};
use mailstrata_engine::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// An account behind its lock: a scan and the follower share it.
pub type Shared = Arc<Mutex<Live>>;

struct Held {
    live: Shared,
    used: u64,
    bytes: usize,
}

#[derive(Default)]
struct Inner {
    held: HashMap<Vec<u8>, Held>,
    clock: u64,
    bytes: usize,
}

/// See the module.
pub struct Registry {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

impl Registry {
    pub fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::default(), bytes_max }
    }

    /// The account, loaded when it is not here. Whoever loads it is the only one to: others wait.
    pub fn get(&self, store: &Store, address: &[u8]) -> Result<Shared> {
        let mut inner = locked(&self.inner);
        inner.clock += 1;
        let clock = inner.clock;
        if let Some(held) = inner.held.get_mut(address) {
            held.used = clock;
            return Ok(held.live.clone());
        }
        let live = Arc::new(Mutex::new(Live::unloaded(store, address)?));
        inner.held.insert(address.to_owned(), Held { live: live.clone(), used: clock, bytes: 0 });
        // Loading takes long for a large account: the account's lock is taken before the registry's is given back.
        let mut guard = locked(&live);
        drop(inner);
        let loaded = Live::load(store, address);
        match loaded {
            Ok(loaded) => *guard = loaded,
            Err(e) => {
                drop(guard);
                locked(&self.inner).held.remove(address);
                return Err(e);
            }
        }
        drop(guard);
        Ok(live)
    }

    /// Drops what was not used for longest until the bound holds. An account in use stays.
    pub fn trim(&self, address: &[u8], bytes: usize) -> Result<()> {
        let mut inner = locked(&self.inner);
        let Some(held) = inner.held.get_mut(address) else { return Ok(()) };
        let old = std::mem::replace(&mut held.bytes, bytes);
        inner.bytes = inner.bytes + bytes - old;
        while inner.bytes > self.bytes_max {
            let idle = inner.held.iter().filter(|(_, h)| Arc::strong_count(&h.live) == 1);
            let Some(address) = idle.min_by_key(|(_, h)| h.used).map(|(a, _)| a.clone()) else { break };
            let Some(held) = inner.held.remove(&address) else { break };
            inner.bytes -= held.bytes;
            // Loaded again, it must find in the store what was recorded here.
            locked(&held.live).settle()?;
        }
        Ok(())
    }

    /// Forgets an account that is gone.
    pub fn forget(&self, address: &[u8]) -> Result<()> {
        let mut inner = locked(&self.inner);
        if let Some(held) = inner.held.remove(address) {
            inner.bytes -= held.bytes;
            locked(&held.live).settle()?;
        }
        Ok(())
    }
}
