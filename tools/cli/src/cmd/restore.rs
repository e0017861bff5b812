//! `restore`: put back what was.

use crate::cmd::find::{End, bound};
use crate::exit::{Code, Failure, Outcome};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{Global, out};
use mailstrata_backup::restore::report::Became;
use mailstrata_backup::restore::{self, ItemLine, Options, Report, Verdict};
use mailstrata_backup::{resolve, scan};
use mailstrata_engine::View;
use mailstrata_mailstore::eml::EmlTarget;
use mailstrata_mailstore::json::percent_decode;
use mailstrata_mailstore::maildir::target::{MaildirOptions, MaildirTarget};
use mailstrata_mailstore::mbox::MboxTarget;
use mailstrata_mailstore::target::Target;
use mailstrata_mailstore::url::{MaildirUrl, Url};
use std::io::Write as _;
use std::path::PathBuf;

/// Put back what was: an account, an item, or what was deleted.
///
/// Nothing that exists is overwritten, and restoring again adds nothing. The store is only read. Exit code 3 when something
/// could not be restored (it is listed), 13 when the cause is damage.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A whole account as it was at a moment: folders, messages, flags, keywords, dates.
    Account {
        /// Address or account id.
        account: String,
        /// As of this moment.
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        at: Option<String>,
        #[command(flatten)]
        to: To,
    },
    /// One item as it was at a moment.
    Item {
        /// Address or account id.
        account: String,
        /// Native id, or key of 32 hexadecimal digits.
        item: String,
        /// As of this moment.
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        at: Option<String>,
        /// Into this folder instead of the one it was in.
        #[arg(long, value_name = "FOLDER")]
        folder: Option<String>,
        #[command(flatten)]
        to: To,
    },
    /// Everything that was deleted in a span of time, back into its folders, tagged `undelete_DD_MM_YY`.
    Undelete {
        /// Address or account id.
        account: String,
        /// From this moment on.
        #[arg(long, value_name = "TIME", default_value = "first", allow_hyphen_values = true)]
        from: String,
        /// Up to this moment.
        #[arg(long, value_name = "TIME", default_value = "last", allow_hyphen_values = true)]
        until: String,
        /// All of it into this folder.
        #[arg(long, value_name = "FOLDER")]
        folder: Option<String>,
        #[command(flatten)]
        to: To,
    },
}

#[derive(clap::Args)]
struct To {
    /// Where to: `maildir:DIR`, `mbox:FILE` (or `mbox:DIR/`), `eml:DIR`.
    #[arg(long = "to", value_name = "TARGET")]
    target: String,
    /// Write nothing; say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Where items go, as `.eml` files, that the target refuses.
    #[arg(long, value_name = "DIR")]
    refused_to: Option<PathBuf>,
    /// Threads that read the store; 0: as many as there are processors.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Name every item, not only those that could not be restored.
    #[arg(short, long)]
    verbose: bool,
}

/// Opens the target that a URL names.
pub fn open_target(url: &str) -> Result<Box<dyn Target>, Failure> {
    Ok(match url.parse::<Url>()? {
        Url::Maildir(MaildirUrl::One { path, .. }) => Box::new(MaildirTarget::open(&path, MaildirOptions::default())?),
        Url::Maildir(MaildirUrl::Tree(_)) => {
            return Err(Failure::usage("a target is one Maildir: `maildir:DIR`, without {user} or {domain}"));
        }
        Url::Mbox(place) if place.is_dir => Box::new(MboxTarget::open(&place.path.join(""))?),
        Url::Mbox(place) => Box::new(MboxTarget::open(&place.path)?),
        Url::Eml(place) => Box::new(EmlTarget::open(&place.path)?),
        Url::Events => return Err(Failure::usage("`events:-` is no target; `export` writes event lines")),
    })
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let signals = Signals::take()?;
    let to = match &args.what {
        What::Account { to, .. } | What::Item { to, .. } | What::Undelete { to, .. } => to,
    };
    let reader = out::reader(g)?;
    let mut target = open_target(&to.target)?;
    let mut side = to.refused_to.as_ref().map(|dir| EmlTarget::open(dir)).transpose()?;
    let mut options = Options {
        threads: to.threads,
        dry_run: to.dry_run,
        side: side.as_mut().map(|s| s as &mut dyn Target),
        gaps: Vec::new(),
        findings: reader.findings().to_vec(),
        stop: Some(&signals.stop),
    };
    let mut lines = std::io::stdout();
    let mut progress = Progress::new(g, "restore");
    let (mut done, mut bytes) = (0u64, 0u64);
    let (json, verbose, dry_run) = (g.json, to.verbose, to.dry_run);
    let mut each = |line: &ItemLine| {
        done += 1;
        bytes += line.bytes.unwrap_or(0);
        progress.set(done, 0, bytes);
        let told = if json {
            serde_json::to_string(line).map(|l| writeln!(lines, "{l}")).unwrap_or(Ok(()))
        } else if verbose || line.outcome == Became::Unrestored {
            writeln!(lines, "{}", human(line, dry_run))
        } else {
            Ok(())
        };
        if let Err(e) = told {
            // The restore goes on: what it does counts, not what is said about it.
            tracing::debug!(error = %e, "stdout is gone");
        }
    };
    let report = match &args.what {
        What::Account { account, at, .. } => {
            let at = out::resolve_at(reader.view(), at.as_deref())?;
            let who = out::who(&at.view, account, at.moment)?;
            note_others(&who);
            options.gaps = gaps(&at.view, &who)?;
            restore::account(&at.view, &who.is, at.moment, target.as_mut(), options, &mut each)?
        }
        What::Item { account, item, at, folder, .. } => {
            let at = out::resolve_at(reader.view(), at.as_deref())?;
            let who = out::who(&at.view, account, at.moment)?;
            note_others(&who);
            let key = out::item(&at.view, who.is.id, item)?;
            let folder = folder.as_ref().map(|f| percent_decode(f));
            let which = restore::item::Which { key, at: at.moment, folder: folder.as_deref() };
            options.gaps = gaps(&at.view, &who)?;
            restore::item(&at.view, &who.is, which, target.as_mut(), options, &mut each)?
        }
        What::Undelete { account, from, until, folder, .. } => {
            let view = reader.view();
            let who = out::who(&view, account, None)?;
            note_others(&who);
            let window = restore::undelete::Window {
                from: bound(&view, "--from", End::Lower, Some(from))?,
                until: bound(&view, "--until", End::Upper, Some(until))?,
                today: jiff::Zoned::now().date(),
                folder: folder.as_ref().map(|f| percent_decode(f)),
            };
            options.gaps = gaps(&view, &who)?;
            restore::undelete(&view, &who.is, &window, target.as_mut(), options, &mut each)?
        }
    };
    progress.finish();
    tell(g, &report)?;
    if matches!(args.what, What::Undelete { .. }) && report.counts.wanted == 0 {
        return Ok(Code::NothingMatched);
    }
    Ok(match report.verdict() {
        Verdict::Done => Code::Done,
        Verdict::Incomplete => Code::Incomplete,
        Verdict::Damage => Code::Damage,
        Verdict::Unreachable => Code::Unreachable,
        Verdict::TargetFull => Code::TargetFull,
        Verdict::Interrupted => signals.code().unwrap_or(Code::Interrupted),
    })
}

fn note_others(who: &resolve::Account) {
    for other in &who.others {
        let state = other.deleted.map_or("alive".to_owned(), |d| format!("deleted {}", out::moment(d)));
        eprintln!("note: another account has this address: {} ({state})", other.id);
    }
}

/// The spans in which the account was not followed.
fn gaps(view: &View, who: &resolve::Account) -> Result<Vec<restore::Gap>, Failure> {
    let found = scan::gaps(view, who.is.id)?;
    Ok(found.into_iter().map(|g| restore::Gap { from: g.from, until: g.until }).collect())
}

fn human(line: &ItemLine, dry_run: bool) -> String {
    let what = line.item.as_deref().unwrap_or(&line.key);
    let folder = line.folder.as_deref().unwrap_or("-");
    match line.outcome {
        Became::Restored if dry_run => format!("would be restored  {folder}  {what}"),
        Became::Restored => format!("restored    {folder}  {what}"),
        Became::Skipped => format!("skipped     {folder}  {what}  (already there)"),
        Became::Unrestored => {
            let code = line.code.map_or(String::new(), |c| format!(" {c}"));
            format!("unrestored  {folder}  {what}  {}{code}", line.message.as_deref().unwrap_or("no cause given"))
        }
    }
}

fn tell(g: &Global, r: &Report) -> Result<(), Failure> {
    let mut to = out::stdout();
    if g.json {
        let report = serde_json::to_value(r).map_err(std::io::Error::from)?;
        out::json_line(&mut to, &serde_json::json!({ "report": report }))?;
        to.flush()?;
        return Ok(());
    }
    let c = &r.counts;
    let would = if r.dry_run { "would be " } else { "" };
    writeln!(
        to,
        "{} ({}): {} {would}restored, {} skipped (already there), {} unrestored; {} folders; {} in {:.1} s",
        r.account.address,
        r.account.id,
        c.restored,
        c.skipped,
        c.unrestored,
        c.folders,
        out::size(c.bytes),
        r.seconds
    )?;
    if let Some(tag) = r.tag.as_ref().filter(|_| c.restored > 0) {
        writeln!(to, "keyword of what came back: {tag}")?;
    }
    if let Some(a) = &r.approximate {
        if a.items > 0 {
            writeln!(to, "approximate: {} items changed within a span that holds this moment", a.items)?;
        }
        for gap in &a.gaps {
            writeln!(
                to,
                "the account was not followed from {} to {}: what changed then is known by scans only",
                gap.from,
                gap.until.as_deref().unwrap_or("now")
            )?;
        }
    }
    if let Some(e) = &r.emptied {
        writeln!(to, "the account is empty at this moment; {} messages were there before", e.messages)?;
        writeln!(to, "  try --at {} ({} messages)", e.before_emptying.at, e.before_emptying.messages)?;
    }
    for w in &r.warnings {
        writeln!(to, "warning: {w}")?;
    }
    if let Some(cause) = &r.stopped {
        writeln!(to, "ended early: {cause:?}")?;
    }
    to.flush()?;
    Ok(())
}
