//! Figures beside their ceilings: values of rounds come in, a table for people or JSON for programs goes out.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Engine / ceiling.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// The engine's value itself.
    AtMost(f64),
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    pub workload: &'static str,
    pub name: String,
    pub unit: &'static str,
    /// Median of the rounds.
    pub engine: f64,
    /// Median of the rounds, and what it is.
    pub ceiling: Option<(f64, &'static str)>,
    /// Median of the rounds' own ratios: engine and ceiling of one round saw the same neighbours.
    pub ratio: Option<f64>,
    pub goal: Goal,
}

impl Figure {
    /// Whether the goal is reached; `None` without one.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::RatioAtMost(g) => self.ratio.map(|r| r <= g),
            Goal::RatioAtLeast(g) => self.ratio.map(|r| r >= g),
            Goal::AtMost(g) => Some(self.engine <= g),
            Goal::AtLeast(g) => Some(self.engine >= g),
            Goal::None => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::RatioAtMost(g) => format!("≤ {g} ×"),
            Goal::RatioAtLeast(g) => format!("≥ {g} ×"),
            Goal::AtMost(g) => format!("≤ {}", number(g)),
            Goal::AtLeast(g) => format!("≥ {}", number(g)),
            Goal::None => String::new(),
        }
    }
}

/// Values of the rounds of one figure.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    engine: Vec<f64>,
    ceiling: Vec<f64>,
}

impl Rounds {
    /// Adds a round.
    pub fn add(&mut self, engine: f64, ceiling: f64) {
        self.engine.push(engine);
        self.ceiling.push(ceiling);
    }

    /// Whether there was no round.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.engine.is_empty()
    }

    /// Adds a round that has no ceiling.
    pub fn add_bare(&mut self, engine: f64) {
        self.engine.push(engine);
    }
}

/// The middle value; the mean of the two middle ones when there is an even number; NaN for none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { f64::NAN } else { f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]) }
}

/// All figures of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure from its rounds; `against` names the ceiling.
    pub fn add(
        &mut self,
        workload: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        rounds: &Rounds,
        against: &'static str,
        goal: Goal,
    ) {
        let ratios: Vec<f64> = rounds.engine.iter().zip(&rounds.ceiling).map(|(e, c)| e / c).collect();
        let paired = !ratios.is_empty();
        self.figures.push(Figure {
            workload,
            name: name.into(),
            unit,
            engine: median(&rounds.engine),
            ceiling: paired.then(|| (median(&rounds.ceiling), against)),
            ratio: paired.then(|| median(&ratios)),
            goal,
        });
    }

    /// Adds a figure that has one value and no ceiling.
    pub fn add_value(
        &mut self,
        workload: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        v: f64,
        goal: Goal,
    ) {
        let mut rounds = Rounds::default();
        rounds.add_bare(v);
        self.add(workload, name, unit, &rounds, "", goal);
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let header = ["workload", "figure", "engine", "ceiling", "ratio", "goal", "", "unit; ceiling is"];
        let mut rows = vec![header.map(str::to_owned)];
        for f in &self.figures {
            rows.push([
                f.workload.to_owned(),
                f.name.clone(),
                number(f.engine),
                f.ceiling.map_or(String::new(), |(c, _)| number(c)),
                f.ratio.map_or(String::new(), |r| format!("{r:.2}")),
                f.goal_text(),
                f.met().map_or("", |m| if m { "ok" } else { "MISSED" }).to_owned(),
                f.ceiling.map_or(f.unit.to_owned(), |(_, what)| format!("{}; {what}", f.unit)),
            ]);
        }
        let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let mut out = String::new();
        for row in &rows {
            for (i, (cell, w)) in row.iter().zip(&widths).enumerate() {
                let gap = if i == 0 { "" } else { "  " };
                // Numbers to the right, words to the left.
                let _ =
                    if (2..=5).contains(&i) { write!(out, "{gap}{cell:>w$}") } else { write!(out, "{gap}{cell:<w$}") };
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    }

    /// For programs; version 1.
    #[must_use]
    pub fn json(&self) -> Value {
        let figure = |f: &Figure| {
            let (goal, bound) = match f.goal {
                Goal::RatioAtMost(g) => ("ratio-at-most", Some(g)),
                Goal::RatioAtLeast(g) => ("ratio-at-least", Some(g)),
                Goal::AtMost(g) => ("at-most", Some(g)),
                Goal::AtLeast(g) => ("at-least", Some(g)),
                Goal::None => ("none", None),
            };
            json!({
                "workload": f.workload, "figure": f.name, "unit": f.unit, "engine": f.engine,
                "ceiling": f.ceiling.map(|c| c.0), "ceiling_is": f.ceiling.map(|c| c.1), "ratio": f.ratio,
                "goal": goal, "bound": bound, "met": f.met(),
            })
        };
        json!({ "version": 1, "figures": self.figures.iter().map(figure).collect::<Vec<_>>() })
    }
}

/// Three digits that count.
fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 1e6 => format!("{:.2}M", v / 1e6),
        a if a >= 10_000.0 => format!("{:.0}k", v / 1e3),
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_of_rounds() {
        let mut rounds = Rounds::default();
        for (e, c) in [(1.0, 2.0), (10.0, 10.0), (3.0, 4.0)] {
            rounds.add(e, c);
        }
        let mut report = Report::default();
        report.add("w", "f", "1/s", &rounds, "bare", Goal::RatioAtLeast(0.7));
        let f = &report.figures()[0];
        assert_eq!((f.engine, f.ceiling, f.ratio), (3.0, Some((4.0, "bare")), Some(0.75)));
        assert_eq!(f.met(), Some(true));
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan());
        assert!(report.table().contains("ok"));
        assert_eq!(report.json()["figures"][0]["met"], true);
    }
}
