//! The offline check of a store, every byte of it, beside what the machine takes to read it and to hash it once.
//!
//! Two ceilings, and the slower of them counts: the files read front to back by one thread, into a buffer that is used again;
//! and every chunk decompressed and its raw bytes put through SHA-256 once, by one thread a core, from the page cache, with
//! nothing checked. *Cold* starts with the store's files in no cache.

use crate::report::{Goal, Report, Rounds};
use crate::{Bench, Outcome, fixture, process};
use mailstrata_engine::Options as StoreOptions;
use mailstrata_engine::check::{Options, Watch, check};
use mailstrata_format::Digest;
use mailstrata_format::frame::CODEC_ZSTD;
use mailstrata_format::pack::{CHUNK_MAGIC, CHUNK_RAW_MAX, ChunkHeader, chunk_len};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// All of it.
pub fn run(bench: &Bench, report: &mut Report) -> Outcome {
    let dir = fixture::store(bench)?;
    let options = StoreOptions::new()?;
    let deep = Options { read_data: true, ..Options::new(options.disk) };
    let quick = Options { read_data: false, ..deep.clone() };
    let chunks = Chunks::find(&dir)?;
    let (_, stored) = process::size(&dir)?;
    let mb = |seconds: f64| stored as f64 / 1e6 / seconds;
    let (mut hot, mut cold, mut raw, mut headers) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..bench.scale.rounds {
        bench.settle()?;
        process::forget(&dir)?;
        let read_cold = read(&dir)?;
        let read_hot = read(&dir)?;
        let hash = chunks.hash(deep.threads)?;
        process::forget(&dir)?;
        let (seconds, _) = checked(&dir, &deep)?;
        cold.add(mb(seconds), mb(read_cold.max(hash)));
        let (seconds, hashed) = checked(&dir, &deep)?;
        hot.add(mb(seconds), mb(read_hot.max(hash)));
        raw.add(hashed as f64 / 1e6 / seconds, hashed as f64 / 1e6 / hash);
        headers.add_bare(checked(&dir, &quick)?.0);
    }
    let slower = "the slower of reading and of zstd with SHA-256 over all cores, as bytes stored";
    report.add("check", "--read-data, hot", "MB/s", &hot, slower, Goal::RatioAtLeast(0.85));
    report.add("check", "--read-data, cold", "MB/s", &cold, slower, Goal::RatioAtLeast(0.85));
    let what = "zstd and SHA-256 of the same chunks, all cores";
    report.add("check", "--read-data, hot, raw bytes", "MB/s", &raw, what, Goal::None);
    report.add("check", "without --read-data", "s", &headers, "", Goal::None);
    Ok(())
}

/// Checks; seconds, and raw bytes hashed.
fn checked(dir: &Path, options: &Options) -> Outcome<(f64, u64)> {
    let begin = Instant::now();
    let report = check(dir, options, &Watch::default())?.ok_or("nobody stopped it")?;
    let seconds = begin.elapsed().as_secs_f64();
    if !report.sound() {
        return Err(format!("the store is damaged: {:?}", report.findings.first()).into());
    }
    Ok((seconds, report.hashed))
}

/// Reads all files; seconds.
fn read(dir: &Path) -> Outcome<f64> {
    let mut buffer = vec![0; 2 << 20];
    let begin = Instant::now();
    process::files(dir, &mut |path| {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Where the chunks of all packs lie.
struct Chunks {
    files: Vec<PathBuf>,
    /// File, offset of the stored bytes, their length, codec.
    all: Vec<(usize, u64, usize, u8)>,
}

impl Chunks {
    /// Finds them by their headers.
    fn find(dir: &Path) -> Outcome<Self> {
        let mut files = Vec::new();
        process::files(&dir.join("pack"), &mut |path| {
            files.push(path.to_owned());
            Ok(())
        })?;
        let mut all = Vec::new();
        for (i, path) in files.iter().enumerate() {
            let bytes = std::fs::read(path)?;
            let mut at = 0;
            while at + ChunkHeader::SIZE <= bytes.len() {
                let head = &bytes[at..];
                match ChunkHeader::decode(head).filter(|_| head.starts_with(&CHUNK_MAGIC)) {
                    Some(c) => {
                        all.push((i, (at + ChunkHeader::SIZE) as u64, c.stored_len as usize, c.codec));
                        at += usize::try_from(chunk_len(c.stored_len))?;
                    }
                    None => at += 8,
                }
            }
        }
        Ok(Self { files, all })
    }

    /// Decompresses and hashes them all; seconds.
    fn hash(&self, threads: usize) -> Outcome<f64> {
        let next = AtomicUsize::new(0);
        let begin = Instant::now();
        let work = || -> Outcome {
            let files = self.files.iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
            let mut unpacker = zstd::bulk::Decompressor::new()?;
            let (mut stored, mut raw) = (vec![0; CHUNK_RAW_MAX + 4096], vec![0; CHUNK_RAW_MAX]);
            loop {
                let from = next.fetch_add(8, Ordering::Relaxed);
                let Some(part) = self.all.get(from..self.all.len().min(from + 8)).filter(|p| !p.is_empty()) else {
                    return Ok(());
                };
                for (file, at, len, codec) in part {
                    let bytes = &mut stored[..*len];
                    files[*file].read_exact_at(bytes, *at)?;
                    if *codec == CODEC_ZSTD {
                        let n = unpacker.decompress_to_buffer(bytes, &mut raw)?;
                        std::hint::black_box(Digest::of(&raw[..n]));
                    } else {
                        std::hint::black_box(Digest::of(bytes));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            all.into_iter().try_for_each(|t| t.join().map_err(|_| "a hashing thread panicked")?)
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }
}
