//! `watch`: follow mailboxes in real time until stopped.

use crate::cmd::scan::maildirs;
use crate::exit::{Code, Failure, Outcome};
use crate::signals::Signals;
use crate::{Global, control, out};
use mailstrata_backup::scan::realtime::Told;
use mailstrata_backup::scan::{Options, Status, Watch};
use mailstrata_mailstore::maildir::watch::Choice;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Record every change of mailboxes as it happens, until stopped.
///
/// What exists is scanned first; until then an account is in doubt, and `status` says so. SIGTERM and SIGINT end it cleanly:
/// what was read is recorded, and the exit code is 0.
#[derive(clap::Args)]
pub struct Args {
    /// What to follow: `maildir:/path` (`?account=NAME`), or a tree such as `maildir:/srv/mail/{domain}/{user}`. May be given
    /// more than once.
    #[arg(long, required = true, value_name = "URL")]
    source: Vec<String>,
    /// How the kernel is asked for changes.
    #[arg(long, value_enum, default_value_t = Notify::Auto)]
    notify: Notify,
    /// Threads that scan; 0: as many as there are processors.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Notify {
    /// inotify while it has room for the tree, else fanotify where it is permitted.
    Auto,
    Inotify,
    Fanotify,
}

/// Where a running `watch` says how it is; derived, for `status`.
#[must_use]
pub fn status_path(store: &Path) -> PathBuf {
    store.join("index/watch.json")
}

/// Replaces the status file.
pub fn write_status(store: &Path, running: bool, sources: &[(String, Status)]) -> std::io::Result<()> {
    let all: Vec<_> = sources.iter().map(|(s, status)| serde_json::json!({"source": s, "status": status})).collect();
    let worst = sources.iter().map(|(_, s)| s.latency).max_by_key(|l| (l.p99, l.count)).unwrap_or_default();
    let text = serde_json::json!({
        "running": running,
        "pid": std::process::id(),
        "updated": out::moment(out::now()),
        "recovery_point": {"unit": "µs", "changes": worst.count, "mean": worst.mean, "p50": worst.p50, "p90": worst.p90,
            "p99": worst.p99, "p999": worst.p999, "max": worst.max},
        "sources": all,
    });
    let path = status_path(store);
    let temp = path.with_extension("json.tmp");
    std::fs::write(&temp, format!("{text}\n"))?;
    std::fs::rename(&temp, &path)
}

fn say(g: &Global, source: &str, told: &Told) {
    let line = if g.json {
        let v = match told {
            Told::Following { backend, watches } => {
                serde_json::json!({"event": "following", "by": backend, "watches": watches})
            }
            Told::InDoubt { account, why } => serde_json::json!({"event": "in-doubt", "account": account, "why": why}),
            Told::Cleared { account } => serde_json::json!({"event": "cleared", "account": account}),
            Told::Scanned(report) => serde_json::json!({"event": "scanned", "report": report}),
            Told::Trouble(what) => serde_json::json!({"event": "trouble", "what": what}),
        };
        let mut v = v;
        v["source"] = source.into();
        v["at"] = out::moment(out::now()).into();
        v.to_string()
    } else {
        match told {
            Told::Following { backend, watches } => format!("{source}: following by {backend} ({watches} watches)"),
            Told::InDoubt { account, why } => {
                format!("{source}: {} in doubt: {why}", account.as_deref().unwrap_or("all accounts"))
            }
            // One line an account at the start would bury the rest; `status` has them.
            Told::Cleared { .. } => return,
            Told::Scanned(r) => format!(
                "{source}: scanned {} accounts: {} messages added, {} changed, {} moved, {} deleted, {} errors; {:.2} s",
                r.accounts.seen,
                r.messages.added,
                r.messages.changed,
                r.messages.moved,
                r.messages.deleted,
                r.errors.total,
                r.seconds
            ),
            Told::Trouble(what) => format!("{source}: {what}"),
        }
    };
    // Nobody may be listening any more; following goes on.
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let urls = args.source.iter().map(|s| maildirs(s)).collect::<Result<Vec<_>, _>>()?;
    let signals = Signals::take()?;
    let dir = out::store_dir(g)?;
    let store = out::writer(g, "watch")?;
    let options = Options {
        threads: args.threads,
        choice: match args.notify {
            Notify::Auto => Choice::Auto,
            Notify::Inotify => Choice::Inotify,
            Notify::Fanotify => Choice::Fanotify,
        },
        ..Options::default()
    };
    let watches: Vec<_> = urls.iter().map(|url| Watch::new(&store, url, options.clone())).collect();
    let over = AtomicBool::new(false);
    let follow = || {
        std::thread::scope(|scope| {
            let running: Vec<_> = watches
                .iter()
                .zip(&args.source)
                .map(|(watch, source)| {
                    let (stop, over) = (&signals.stop, &over);
                    scope.spawn(move || {
                        let result = watch.run(stop, &|told| say(g, source, &told));
                        if result.is_err() {
                            // The others must not go on as if nothing had happened.
                            stop.store(true, Ordering::Relaxed);
                            over.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            let mut ticks = 0u32;
            while running.iter().any(|r| !r.is_finished()) {
                std::thread::sleep(Duration::from_millis(50));
                ticks += 1;
                if ticks.is_multiple_of(10) {
                    let all: Vec<_> = args.source.iter().cloned().zip(watches.iter().map(Watch::status)).collect();
                    if let Err(e) = write_status(&dir, true, &all) {
                        tracing::warn!(error = %e, "the status file was not written");
                    }
                }
            }
            running.into_iter().map(|r| r.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect::<Vec<_>>()
        })
    };
    let results = control::beside(&store, "watch", &signals.stop, follow);
    let all: Vec<_> = args.source.iter().cloned().zip(watches.iter().map(Watch::status)).collect();
    drop(watches);
    let closed = store.close();
    if let Err(e) = write_status(&dir, false, &all) {
        tracing::warn!(error = %e, "the status file was not written");
    }
    for result in results {
        result?;
    }
    closed?;
    for (source, status) in &all {
        if !g.json {
            let (c, l) = (&status.counts, &status.latency);
            crate::say!(
                "{source}: {} arrived, {} changed, {} moved, {} deleted; change to acknowledgement: p50 {:.1} ms, p99 {:.1} ms",
                c.added,
                c.changed,
                c.moved,
                c.deleted,
                l.p50 as f64 / 1e3,
                l.p99 as f64 / 1e3
            );
        }
    }
    if over.load(Ordering::Relaxed) {
        return Err(Failure::new(Code::Failed, "following ended early"));
    }
    Ok(Code::Done)
}
