//! The result as Markdown.

use std::fmt::Write as _;

use anyhow::Context as _;

/// What was measured, in the order in which it is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    targets: Vec<(String, String, String, bool)>,
    sections: String,
}

impl Report {
    /// A target, and what came of it.
    pub(crate) fn target(&mut self, what: &str, target: &str, measured: String, met: bool) {
        self.targets.push((what.to_owned(), target.to_owned(), measured, met));
    }

    /// A section: what it is, then its table.
    pub(crate) fn section(&mut self, title: &str, introduction: &str, text: &str) {
        let _ = write!(self.sections, "\n## {title}\n\n{introduction}\n\n{}\n", text.trim());
    }

    /// The whole page.
    ///
    /// # Errors
    /// When what people wrote for it cannot be read.
    pub(crate) fn page(&self, machine: &str, method: &str) -> anyhow::Result<String> {
        let misses = std::fs::read_to_string(MISSES).with_context(|| format!("cannot read {MISSES}"))?;
        let mut page =
            format!("{HEAD}\n{machine}\n\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n");
        for (what, target, measured, met) in &self.targets {
            let verdict = if *met { "met" } else { "**missed**" };
            let _ = writeln!(page, "| {what} | {target} | {measured} | {verdict} |");
        }
        Ok(page + &self.sections + &misses + method)
    }
}

/// Of what the misses are made: what has been found out about them, for people to keep true. Read when it is
/// needed: a change of it should not cost a build.
const MISSES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/misses.md");

const HEAD: &str = "\
# What keyclasp costs

Written by `make bench`, which measures keyclasp and its references side by side in one run: read the
ratios first, the times belong to this machine.
";

/// A whole number with separators.
pub(crate) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time that is given in µs.
pub(crate) fn times(micros: f64) -> String {
    match micros {
        micros if micros < 100.0 => format!("{micros:.1} µs"),
        micros if micros < 1000.0 => format!("{micros:.0} µs"),
        micros => format!("{:.2} ms", micros / 1000.0),
    }
}
