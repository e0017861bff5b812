//! Synthetic mails and the events that report them: a number comes in, always the same mail goes out.
//!
//! Sizes are lognormal (median 5 KB, mean some 9 KB, at most 1 MiB), as mailboxes are. Three quarters are text drawn from a
//! vocabulary, which zstd packs to about a third; a quarter carries an attachment in base64, which hardly shrinks. One mail
//! in twenty has the body of an earlier one.

use mailstrata_engine::{Blob, Change, Event, Patch, Source, State};
use mailstrata_format::{AccountId, ItemKey, ItemKind};
use std::io::Write as _;

/// Accounts that items are spread over.
pub const ACCOUNTS: u64 = 10;
/// The moment of item 0, µs UTC.
const EPOCH: i64 = 1_700_000_000_000_000;
/// How much later an item's second version happened, µs.
const LATER: i64 = 1_000_000_000_000;
const MEDIAN: f64 = 5000.0;
const SIGMA: f64 = 1.1;
const POOL: usize = 2 << 20;

/// A small generator (splitmix64): good enough for sizes and places, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator with its own sequence.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n` (at least 1).
    pub const fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// Uniform in (0, 1].
    pub fn unit(&mut self) -> f64 {
        (((self.next_u64() >> 11) + 1) as f64) / ((1u64 << 53) as f64)
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// The mails.
pub struct Corpus {
    text: Vec<u8>,
    noise: Vec<u8>,
}

impl Default for Corpus {
    fn default() -> Self {
        let mut rng = Rng::new(11);
        let words: Vec<Vec<u8>> = (0..3000)
            .map(|_| (0..2 + rng.below(8)).map(|_| b"etaoinshrdlucmfwygpbvk"[rng.below(22) as usize]).collect())
            .collect();
        let mut text = Vec::with_capacity(POOL + 16);
        let mut column = 0;
        while text.len() < POOL {
            // Squared: some words are far more frequent than others.
            let u = rng.unit();
            let word = &words[(u * u * 2999.0) as usize];
            text.extend_from_slice(word);
            column += word.len() + 1;
            text.extend_from_slice(if column > 70 { b"\r\n" } else { b" " });
            column %= 71;
        }
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let noise = (0..POOL / 2)
            .map(|i| if i % 77 == 76 { b'\n' } else { alphabet[(rng.next_u64() >> 58) as usize] })
            .collect();
        Self { text, noise }
    }
}

impl Corpus {
    /// Mail `n` replaces what is in `out`.
    pub fn mail(&self, n: u64, out: &mut Vec<u8>) {
        let n = if n % 20 == 19 { n - 7 } else { n };
        let mut rng = Rng::new(n.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let size = (MEDIAN * (SIGMA * rng.normal()).exp()).clamp(400.0, 1_048_576.0) as usize;
        out.clear();
        let _ = write!(
            out,
            "Received: from mx{}.example.net by mail.example.org; id {:016x}\r\nFrom: sender{}@example.net\r\n\
             To: {}\r\nSubject: message {n}\r\nMessage-ID: <{:032x}@example.net>\r\nMIME-Version: 1.0\r\n\r\n",
            rng.below(9),
            rng.next_u64(),
            rng.below(500),
            address(n),
            u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()),
        );
        let attachment = if rng.below(4) == 0 { size * 3 / 4 } else { 0 };
        let mut fill = |pool: &[u8], until: usize| {
            while out.len() < until {
                let take = (until - out.len()).min(512 + rng.below(1500) as usize);
                let from = rng.below((pool.len() - take) as u64) as usize;
                out.extend_from_slice(&pool[from..from + take]);
            }
        };
        fill(&self.text, size - attachment);
        fill(&self.noise, size);
    }
}

/// The address that item `n` belongs to.
#[must_use]
pub fn address(n: u64) -> String {
    format!("user{}@example.org", n % ACCOUNTS)
}

/// The native id of item `n`.
#[must_use]
pub fn native(n: u64) -> Vec<u8> {
    format!("1700000000/{n}").into_bytes()
}

/// Account and item key of item `n`.
#[must_use]
pub fn key(n: u64) -> (AccountId, ItemKey) {
    (AccountId::of_address(address(n).as_bytes(), 1), ItemKey::of(ItemKind::Message.code(), &native(n)))
}

/// When version `v` (0 or 1) of item `n` happened, µs UTC.
#[must_use]
pub const fn moment(n: u64, v: i64) -> i64 {
    EPOCH + v * LATER + n.cast_signed() * 1000
}

/// Item `n` arrives.
#[must_use]
pub fn arrival(n: u64, blobs: Vec<Blob>) -> Event {
    let state = State {
        folder: Some(b"INBOX".to_vec()),
        flags: Some(vec![b"\\Recent".to_vec()]),
        name: Some(format!("message {n} about the meeting on Thursday").into_bytes()),
        sender: Some(b"sender@example.net".to_vec()),
        date: Some(moment(n, 0)),
        uid: Some(n),
        attributes: Vec::new(),
        tags: None,
    };
    event(n, Change::Put { state, blobs, content_unseen: false }, 0)
}

/// Item `n` is read by its owner.
#[must_use]
pub fn seen(n: u64) -> Event {
    let patch = Patch { flags: Some(Some(vec![b"\\Seen".to_vec()])), ..Patch::default() };
    event(n, Change::Patch { patch, blobs: None }, 1)
}

fn event(n: u64, change: Change, version: i64) -> Event {
    Event {
        account: address(n).into_bytes(),
        account_id: None,
        item: native(n),
        kind: ItemKind::Message,
        change,
        at: Some(moment(n, version)),
        not_before: None,
        source: Some(Source { name: b"maildir".to_vec(), position: position(n, version) }),
        derived: false,
    }
}

/// The source position of a version of item `n`.
fn position(n: u64, version: i64) -> Vec<u8> {
    format!("{n:012}:{version}").into_bytes()
}

/// Turns the event of one item into that of another, fast: it is done between measured operations.
pub fn renumber(event: &mut Event, n: u64) {
    event.item.truncate(b"1700000000/".len());
    digits(&mut event.item, n, 1);
    event.at = Some(moment(n, 0));
    if let Some(s) = &mut event.source {
        s.position.clear();
        digits(&mut s.position, n, 12);
        s.position.extend_from_slice(b":0");
    }
}

/// Decimal digits, at least `width`.
fn digits(out: &mut Vec<u8>, mut n: u64, width: usize) {
    let from = out.len();
    while n > 0 || out.len() < from + width {
        out.push(b'0' + (n % 10) as u8);
        n /= 10;
    }
    out[from..].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails_are_the_same_every_time_and_some_repeat() {
        let corpus = Corpus::default();
        let mail = |n| {
            let mut out = Vec::new();
            corpus.mail(n, &mut out);
            out
        };
        assert_eq!(mail(5), mail(5));
        assert_ne!(mail(5), mail(6));
        assert_eq!(mail(39), mail(32));
        let mean = (0..2000).map(|n| mail(n).len()).sum::<usize>() / 2000;
        assert!((6000..14_000).contains(&mean), "{mean}");
    }

    #[test]
    fn a_renumbered_event_is_the_event_of_that_number() {
        let mut e = arrival(3, Vec::new());
        renumber(&mut e, 77);
        let other = arrival(77, Vec::new());
        assert_eq!((e.item, e.at, e.source), (other.item, other.at, other.source));
    }
}
