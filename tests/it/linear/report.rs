//! A run in figures, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::checker::Violation;
use super::cluster::REPLICAS;
use super::history::{Answer, History, Kind, Op};

/// What a run came to.
#[derive(Debug)]
pub(super) struct Report {
    title: String,
    length: Duration,
    /// Calls by kind and answer.
    ops: BTreeMap<(Kind, String), usize>,
    /// Faults by kind.
    faults: BTreeMap<&'static str, usize>,
    violations: usize,
    /// For each replica.
    replicas: Vec<Availability>,
    /// How long RevokeKey took that was answered OK.
    revokes: Durations,
    /// And RevokeKeys.
    sweeps: Durations,
}

/// Durations, sorted.
#[derive(Debug)]
struct Durations(Vec<Duration>);

#[derive(Debug)]
struct Availability {
    /// Longest time without a ValidateKey that was decided.
    longest: Duration,
    /// ValidateKey that failed, of all.
    failed: usize,
    all: usize,
}

impl Report {
    /// Of a history that was recorded until `length`.
    pub(super) fn of(title: String, length: Duration, history: &History, violations: &[Violation]) -> Self {
        let mut report = Self {
            title,
            length,
            ops: BTreeMap::new(),
            faults: BTreeMap::new(),
            violations: violations.len(),
            replicas: (0..REPLICAS).map(|replica| Availability::of(replica, length, &history.ops)).collect(),
            revokes: Durations::of(Kind::Revoke, &history.ops),
            sweeps: Durations::of(Kind::RevokeKeys, &history.ops),
        };
        for op in &history.ops {
            // What RotateKey made is no call of its own.
            if op.kind != Kind::Rotated {
                *report.ops.entry((op.kind, op.outcome())).or_default() += 1;
            }
        }
        for fault in &history.faults {
            *report.faults.entry(fault.name).or_default() += 1;
        }
        report
    }

    /// How many calls of a kind had this outcome.
    pub(super) fn count(&self, kind: Kind, outcome: &str) -> usize {
        self.ops.get(&(kind, outcome.to_owned())).copied().unwrap_or_default()
    }
}

impl Durations {
    fn of(kind: Kind, ops: &[Op]) -> Self {
        let done = ops.iter().filter(|op| op.kind == kind && op.is_done());
        let mut durations: Vec<_> = done.map(|op| op.end.saturating_sub(op.start)).collect();
        durations.sort();
        Self(durations)
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.0.get(self.0.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [50, 99, 100].map(|percent| self.percentile(percent).as_secs_f64() * 1000.0);
        write!(f, "p50 {half:.1} ms, p99 {most:.1} ms, longest {all:.1} ms")
    }
}

impl Availability {
    fn of(replica: usize, length: Duration, ops: &[Op]) -> Self {
        let validations = || ops.iter().filter(|op| op.kind == Kind::Validate && op.replica == replica);
        let failed = |op: &&Op| matches!(op.answer, Answer::Unknown(_));
        let mut decided: Vec<_> = validations().filter(|op| !failed(op)).map(|op| op.end).collect();
        decided.extend([Duration::ZERO, length]);
        decided.sort();
        Self {
            longest: decided.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default(),
            failed: validations().filter(failed).count(),
            all: validations().count(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {}: {:.1} s", self.title, self.length.as_secs_f64())?;
        let all: usize = self.ops.values().sum();
        writeln!(f, "{all} calls:")?;
        let mut last = None;
        for ((kind, outcome), count) in &self.ops {
            if last != Some(kind) {
                write!(f, "{}  {kind:?}:", if last.is_some() { "\n" } else { "" })?;
                last = Some(kind);
            }
            write!(f, " {outcome} {count}")?;
        }
        writeln!(f, "\n{} faults:", self.faults.values().sum::<usize>())?;
        self.faults.iter().try_for_each(|(name, count)| writeln!(f, "  {name}: {count}"))?;
        writeln!(f, "RevokeKey until OK: {}", self.revokes)?;
        writeln!(f, "RevokeKeys until OK: {}", self.sweeps)?;
        for (replica, Availability { longest, failed, all }) in self.replicas.iter().enumerate() {
            let share = 100.0 * *failed as f64 / (*all).max(1) as f64;
            let longest = longest.as_secs_f64();
            writeln!(
                f,
                "replica {replica}: longest without a decision {longest:.2} s; {share:.1} % of {all} ValidateKey failed"
            )?;
        }
        write!(f, "violations: {}", self.violations)
    }
}
