//! Progress of long work on stderr: a bar on a terminal, JSON lines for programs, nothing else.

use crate::Global;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A piece of work under way.
pub struct Progress {
    bar: ProgressBar,
    json: bool,
    what: &'static str,
    /// What is counted.
    items: bool,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Work on `what`; counts are items.
    #[must_use]
    pub fn new(g: &Global, what: &'static str) -> Self {
        let bar = ProgressBar::no_length();
        let shown = !g.json_progress && std::io::stderr().is_terminal();
        bar.set_draw_target(if shown { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() });
        let now = Instant::now();
        Self { bar, json: g.json_progress, what, items: true, started: now, told: now }
    }

    /// Work on `what`; counts are bytes.
    #[must_use]
    pub fn of_bytes(g: &Global, what: &'static str) -> Self {
        Self { items: false, ..Self::new(g, what) }
    }

    /// How far it is. `total` is 0 while nobody knows.
    pub fn set(&mut self, done: u64, total: u64, bytes: u64) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        if self.json {
            if self.told.elapsed() >= Duration::from_millis(500) {
                self.told = Instant::now();
                let line = serde_json::json!({"progress": self.what, "done": done, "total": (total > 0).then_some(total),
                    "bytes": bytes, "seconds": seconds});
                // Progress that cannot be told is no reason to stop.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            return;
        }
        if total > 0 && self.bar.length().is_none() {
            let counts = if self.items { "{pos}/{len} {msg}" } else { "{bytes}/{total_bytes} {bytes_per_sec}" };
            self.bar.set_style(style(&format!("{{prefix}} [{{bar:30}}] {counts} eta {{eta}}")));
            self.bar.set_prefix(self.what);
            self.bar.set_length(total);
        } else if self.bar.length().is_none() {
            self.bar.set_style(style("{prefix} {spinner} {pos} {msg} {elapsed}"));
            self.bar.set_prefix(self.what);
        }
        self.bar.set_position(done);
        if !self.items {
            return;
        }
        let rate = crate::out::size((bytes as f64 / seconds) as u64);
        self.bar.set_message(format!("{} {rate}/s", crate::out::size(bytes)));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
