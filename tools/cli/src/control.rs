//! Asking the process that writes a store: how a command reaches a running `watch` or `append` that holds the lock.
//!
//! ```text
//! command ── Request as a JSON line ─────────────────────────► the store's writer
//!         ◄─ {"progress":…} …, then {"result":…} or {"error":…} ──
//! ```
//!
//! In comes a request, out goes what [`perform`] says; the same function serves when the store is free and the command opens
//! it itself. Rules:
//!
//! - The socket has an abstract name made of the superblock's device and inode: nothing lies in the store, a copy of it is
//!   another store, and nothing outlives the process (unix(7)). It is seen within the writer's network namespace only.
//! - Who asks must be the writer's user or root; who answers must be the asker's user, root, or the store's owner.
//! - An asker that goes away ends its request, and so does the end of the writer.

use crate::exit::{Code, Failure};
use crate::{Global, out};
use mailstrata_engine::{Error, Store};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What can be asked of a writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Gives `pid` and `operation`.
    Who,
    /// Merge what is due, and remove retired files. Gives `runs`, `replaced`, `bytes`, `removed`, `left_out`.
    Compact,
}

/// Called with each line of progress; `false`: nobody wants the result any more.
pub type Tell<'a> = dyn FnMut(Value) -> bool + 'a;

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 1 << 20;

/// Requests that are served at the same time.
const AT_ONCE: usize = 8;

/// How long an asker may take to say what it wants, and a writer to answer that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does what a request says, on an open store. `operation` is what the writer does otherwise.
pub fn perform(store: &Store, operation: &str, request: &Request, _tell: &mut Tell<'_>) -> Result<Value, Failure> {
    match request {
        Request::Who => Ok(json!({"pid": std::process::id(), "operation": operation})),
        Request::Compact => {
            let c = store.compact_now()?;
            Ok(
                json!({"runs": c.runs, "replaced": c.replaced, "bytes": c.bytes, "removed": c.removed, "left_out": c.left_out}),
            )
        }
    }
}

/// Does it here when the store is free, else has its writer do it.
pub fn run(g: &Global, operation: &str, request: &Request, tell: &mut Tell<'_>) -> Result<Value, Failure> {
    let dir = out::store_dir(g)?;
    match Store::open(&dir, &out::options(g, operation)?) {
        Ok(store) => {
            let done = perform(&store, operation, request, tell);
            store.close()?;
            done
        }
        Err(Error::InUse { .. }) => match ask(&dir, request, tell)? {
            Some(result) => Ok(result),
            // It is one that takes no requests: `scan`, say. Wait as long as was said.
            None => {
                let store = out::writer(g, operation)?;
                let done = perform(&store, operation, request, tell);
                store.close()?;
                done
            }
        },
        Err(e) => Err(e.into()),
    }
}

fn address(dir: &Path) -> io::Result<(SocketAddr, u32)> {
    let meta = std::fs::metadata(dir.join("SUPERBLOCK"))?;
    let name = format!("mailstrata/{:x}/{:x}", meta.dev(), meta.ino());
    Ok((SocketAddr::from_abstract_name(name)?, meta.uid()))
}

/// Whether the other end belongs to one of these users, or to root.
fn trusted(stream: &UnixStream, users: &[u32]) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let uid = peer.uid.as_raw();
    Ok(uid == 0 || users.contains(&uid))
}

/// Asks the store's writer; `None` when no one takes requests.
pub fn ask(dir: &Path, request: &Request, tell: &mut Tell<'_>) -> Result<Option<Value>, Failure> {
    let failed = |e: io::Error| Failure::new(Code::Failed, format!("asking the store's writer: {e}"));
    let (address, owner) = match address(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut stream = match UnixStream::connect_addr(&address) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        other => other.map_err(failed)?,
    };
    if !trusted(&stream, &[rustix::process::geteuid().as_raw(), owner]).map_err(failed)? {
        return Err(Failure::new(Code::Failed, "another user answers in the name of the store's writer")
            .hint("run this as the store's owner, or stop the writer first"));
    }
    let mut line = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let gone = || {
        Failure::new(Code::Failed, "the store's writer ended before it answered")
            .hint("what it had done is safe; ask again, it goes on from there")
    };
    for line in BufReader::new(&stream).lines() {
        let line = match line {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(gone()),
            other => other.map_err(failed)?,
        };
        let mut answer: Value = serde_json::from_str(&line).map_err(|e| failed(e.into()))?;
        if let Some(error) = answer.get("error") {
            let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
            let code = error.get("code").and_then(Value::as_u64).and_then(Code::of).unwrap_or(Code::Failed);
            return Err(Failure { code, message: text("message").unwrap_or_default(), hint: text("hint") });
        }
        if answer.get("result").is_some() {
            return Ok(Some(answer["result"].take()));
        }
        if !tell(answer["progress"].take()) {
            return Err(Failure::new(Code::Interrupted, "given up; the writer stops this work at the next safe point"));
        }
    }
    Err(gone())
}

/// Answers requests while `work` runs. `stop` is what ends the work, and requests under way with it.
pub fn beside<T>(store: &Store, operation: &str, stop: &AtomicBool, work: impl FnOnce() -> T) -> T {
    let listening = address(store.dir()).and_then(|(address, _)| UnixListener::bind_addr(&address));
    let pair = UnixStream::pair();
    let (listener, (asleep, awake)) = match (listening, pair) {
        (Ok(listener), Ok(pair)) => (listener, pair),
        (Err(e), _) | (_, Err(e)) => {
            tracing::warn!(error = %e, "commands such as `purge` cannot reach this writer");
            return work();
        }
    };
    let (over, under_way) = (AtomicBool::new(false), AtomicUsize::new(0));
    let stopping = || over.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        /// Ends the listener, also when the work panics.
        struct End<'a>(&'a AtomicBool, UnixStream);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
                // The other end is the listener's own; it lives until it has seen this.
                let _ = self.1.write_all(b"x");
            }
        }
        let _end = End(&over, awake);
        let (over, stopping) = (&over, &stopping);
        let (listener, asleep, under_way) = (&listener, &asleep, &under_way);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut fds = [
                    PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(asleep.as_fd(), PollFlags::IN),
                ];
                match poll(&mut fds, None) {
                    Ok(_) if !fds[0].revents().is_empty() => {}
                    Ok(_) | Err(rustix::io::Errno::INTR) => continue,
                    Err(e) => {
                        tracing::warn!(error = %e, "no more requests are taken");
                        return;
                    }
                }
                let Ok((stream, _)) = listener.accept() else { continue };
                if under_way.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                scope.spawn(move || {
                    if let Err(e) = serve(store, operation, stream, stopping) {
                        tracing::debug!(error = %e, "a request was not answered");
                    }
                    under_way.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        work()
    })
}

fn serve(store: &Store, operation: &str, mut stream: UnixStream, stopping: &impl Fn() -> bool) -> io::Result<()> {
    let answer = |stream: &mut UnixStream, value: &Value| stream.write_all(format!("{value}\n").as_bytes());
    if !trusted(&stream, &[rustix::process::geteuid().as_raw()])? {
        let error = json!({"code": Code::Failed as u8, "message": "only the writer's user and root may ask"});
        return answer(&mut stream, &json!({ "error": error }));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(REQUEST_MAX)).read_line(&mut line)?;
    let result = match serde_json::from_str::<Request>(&line) {
        Ok(request) => perform(store, operation, &request, &mut |progress| {
            !stopping() && answer(&mut stream, &json!({ "progress": progress })).is_ok()
        }),
        Err(e) => Err(Failure::usage(format!("the writer does not know this request: {e}"))
            .hint("it may be of another version; stop it, or use its version")),
    };
    let last = match result {
        Ok(result) => json!({ "result": result }),
        Err(f) => json!({"error": {"code": f.code as u8, "message": f.message, "hint": f.hint}}),
    };
    answer(&mut stream, &last)
}
