//! `scan`: SmartScan.

use crate::exit::{Code, Failure, Outcome};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{Global, control, out};
use mailstrata_backup::scan::{self, Options, Report, SmartScan};
use mailstrata_mailstore::json::percent_decode;
use mailstrata_mailstore::url::{MaildirUrl, Url};
use std::sync::Mutex;

/// Record what changed since the last scan.
///
/// The first scan builds the backup. Later ones look only at folders that changed; --deep reads and compares every message.
/// An interrupted scan goes on where it ended when it is run again.
#[derive(clap::Args)]
pub struct Args {
    /// What to scan: `maildir:/path` (`?account=NAME`), or a tree such as `maildir:/srv/mail/{domain}/{user}`. May be given
    /// more than once.
    #[arg(long, required = true, value_name = "URL")]
    source: Vec<String>,
    /// Only this account.
    #[arg(long, value_name = "ADDRESS")]
    account: Option<String>,
    /// Read and compare every message, whatever the folders' change markers say.
    #[arg(long)]
    deep: bool,
    /// End when more messages than this could not be read.
    #[arg(long, value_name = "N")]
    read_error_threshold: Option<u64>,
    /// Threads that read; 0: as many as there are processors.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// The Maildirs that a URL names.
pub fn maildirs(url: &str) -> Result<MaildirUrl, Failure> {
    match url.parse::<Url>()? {
        Url::Maildir(m) => {
            // A Maildir that is not there looks like an account that is gone; a typo or a missing mount is more likely.
            if let MaildirUrl::One { path, .. } = &m
                && !path.join("cur").is_dir()
            {
                let message = format!("{}: there is no Maildir (no directory `cur` in it)", path.display());
                return Err(
                    Failure::new(Code::Unreachable, message).hint("is the path right, and its file system mounted?")
                );
            }
            Ok(m)
        }
        _ => Err(Failure::usage(format!("`{url}` cannot be scanned or followed; `maildir:` can"))),
    }
}

impl From<scan::Error> for Failure {
    fn from(e: scan::Error) -> Self {
        match e {
            scan::Error::Store(e) => e.into(),
            scan::Error::Source(e) => Self::new(Code::Unreachable, e),
            scan::Error::Watch(e) => Self::new(Code::Unreachable, e),
            scan::Error::NoAccount(_) => Self::new(Code::NothingMatched, e),
            e => Self::new(Code::Failed, e),
        }
    }
}

/// Says what a scan did.
pub fn tell(g: &Global, source: &str, r: &Report) -> Result<(), Failure> {
    if g.json {
        let report = serde_json::to_value(r).map_err(std::io::Error::from)?;
        return out::json_line(&mut std::io::stdout(), &serde_json::json!({"source": source, "report": report}));
    }
    for (what, lines) in [("alarm", &r.alarms), ("error", &r.errors), ("notice", &r.notices)] {
        for line in &lines.first {
            eprintln!("{what}: {line}");
        }
        let more = lines.total - lines.first.len() as u64;
        if more > 0 {
            eprintln!("{what}: and {more} more");
        }
    }
    let (a, m) = (&r.accounts, &r.messages);
    crate::say!(
        "{source}: {} accounts ({} changed, {} skipped), {} messages added, {} changed, {} moved, {} deleted, {} unread; \
         {} read, {} new; {:.2} s",
        a.seen,
        a.changed,
        a.skipped,
        m.added,
        m.changed,
        m.moved,
        m.deleted,
        m.unseen,
        out::size(r.bytes_read),
        out::size(r.bytes_new),
        r.seconds
    );
    if let Some(why) = &r.stopped {
        crate::say!("ended early: {why}");
    }
    Ok(())
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let urls = args.source.iter().map(|s| maildirs(s)).collect::<Result<Vec<_>, _>>()?;
    let signals = Signals::take()?;
    let store = out::writer(g, "scan")?;
    let options = Options {
        deep: args.deep,
        account: args.account.as_ref().map(|a| percent_decode(a)),
        threads: args.threads,
        read_errors_max: args.read_error_threshold,
        ..Options::default()
    };
    let mut incomplete = false;
    for (source, url) in args.source.iter().zip(&urls) {
        let progress = Mutex::new(Progress::new(g, "scan"));
        let show = |p: &scan::Progress| {
            if let Ok(mut bar) = progress.lock() {
                bar.set(p.messages, 0, p.bytes);
            }
        };
        let scan = || SmartScan::new(&store, url, options.clone()).run(&show, &signals.stop);
        let report = control::beside(&store, "scan", &signals.stop, scan);
        if let Ok(bar) = progress.lock() {
            bar.finish();
        }
        let report = report?;
        tell(g, source, &report)?;
        incomplete |= report.errors.total > 0 || report.stopped.is_some() || report.accounts.skipped > 0;
        if signals.came() {
            break;
        }
    }
    store.close()?;
    Ok(match signals.code() {
        Some(code) => code,
        None if incomplete => Code::Incomplete,
        None => Code::Done,
    })
}
