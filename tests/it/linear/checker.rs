//! The judge of a history. Pure: no time, no I/O.
//!
//! Each key is a register that is active, denied (to the address that it is presented from), suspended or
//! revoked, and absent before CreateKey. Its changes are linearizable: every change that was answered OK took
//! effect at one moment between its start and its end, in the order of its versions; one whose outcome is unknown
//! took effect once at some moment after its start, or never. What *takes away* (SuspendKey, an UpdateKey that
//! narrows, RevokeKey, RevokeKeys, RotateKey) is fenced: when it is answered OK, no replica answers from an earlier
//! version any more. What *gives* (CreateKey, ResumeKey, an UpdateKey that widens) becomes visible some time after
//! it was answered: until then, a key that was resumed may still be refused. Calls that overlap may be answered as
//! before or as after. An answer carries the version that it was made from, so that the versions are the witness of
//! the order: whether there is one that fits needs no search.
//!
//! RevokeKeys is a RevokeKey of keys of one owner, each at a moment of its own: if it was answered OK, of every key
//! whose creation was answered before it was started, and perhaps of those that were created before it was
//! answered; else perhaps of any key of the owner, also of one that is created later. RotateKey, here always
//! without grace, is a RevokeKey of the old key and the creation of another one, which begins as what the old one
//! was.
//!
//! "Before" is: answered before the other one was started, on the one clock of all clients. A change
//! *may be in effect* at a time if it was started before it and was answered OK or with an unknown
//! outcome. The rules:
//!
//! 1. [`Rule::Revoked`]: a ValidateKey after a RevokeKey, RevokeKeys or RotateKey that was answered OK does not answer
//!    VALID, and no change after it but a RevokeKey is answered OK.
//! 2. [`Rule::Suspended`]: a ValidateKey after a SuspendKey that was answered OK answers VALID only
//!    because of a ResumeKey that may have taken effect after it: one that was not answered before the
//!    SuspendKey started, and was started before the ValidateKey ended. [`Rule::Narrowed`]: likewise of an UpdateKey
//!    that narrows and one that widens.
//! 3. [`Rule::Stale`]: a ValidateKey after a taking away in version n answers from version n or a
//!    later one, and VALID from a later one only; after a key's end it answers REVOKED.
//! 4. [`Rule::Lost`]: a key whose creation was answered is known, unless a fault that may lose records
//!    ended after the creation started and began before the answer that it is unknown. In a failover,
//!    a key that was made at the new primary may be unknown to a ValidateKey that starts within
//!    [`VISIBLE`] of that: a lease of before the failover may go on for as long. It may not be unknown
//!    to whoever wants to take it away.
//! 5. [`Rule::Cause`]: no call is answered SUSPENDED, ADDRESS_DENIED or REVOKED before a call that makes this key so
//!    was started; what RotateKey made may be so from the beginning.
//! 6. [`Rule::Order`]: of two changes one after the other, both answered OK, the later one has the later
//!    version (an equal one only where it may have found nothing to do), and no two that write have
//!    the same. What has the same version is the same. Each leaves the key as its name says.
//! 7. [`Rule::Converged`]: once everything is healed, all replicas and the store say the same of a key,
//!    no version that was answered OK is lost, and what has the version of a change is as that left it.
//! 8. [`Rule::Wrong`]: no answer is one that these calls never get: another outcome, an internal error.
//!
//! A ValidateKey that fails (UNAVAILABLE and the like) breaks no rule. After FLUSHALL, what is gone is
//! gone; but a key that was revoked is never valid, whatever was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::history::{Answer, Effect, Fault, History, Kind, Op, State};

/// Longest that a lease may go on after a failover: the longest of any run, with room to spare.
const VISIBLE: Duration = Duration::from_millis(500);

/// What was broken; see the module's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    Revoked,
    Suspended,
    Narrowed,
    Stale,
    Lost,
    Cause,
    Order,
    Converged,
    Wrong,
}

/// A rule that was broken, with the calls that show it: the last one is the offender.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) rule: Rule,
    pub(super) ops: Vec<Op>,
}

/// Everything that is wrong with a history.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut keys: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    let mut sweeps: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        match op.key {
            Some(key) => keys.entry(key).or_default().push(op),
            None => sweeps.entry(op.owner).or_default().push(op),
        }
    }
    let wrong = |op: &&&Op| !matches!(op.answer, Answer::Swept(..) | Answer::Unknown(_));
    let wrong = sweeps.values().flatten().filter(wrong);
    let mut found: Vec<_> = wrong.map(|&op| Violation { rule: Rule::Wrong, ops: vec![op.clone()] }).collect();
    for ops in keys.values() {
        let sweeps = ops.first().and_then(|op| sweeps.get(&op.owner)).map_or(&[][..], Vec::as_slice);
        found.extend(Register::of(ops, sweeps, &history.faults).judge(ops));
    }
    found
}

/// The changes of one key.
struct Register<'a> {
    faults: &'a [Fault],
    create: Option<&'a Op>,
    /// All but the creation, whatever was answered, by the end. Of RevokeKeys those that may have ended this key.
    changes: Vec<&'a Op>,
}

impl<'a> Register<'a> {
    fn of(ops: &[&'a Op], sweeps: &[&'a Op], faults: &'a [Fault]) -> Self {
        let create = ops.iter().copied().find(|op| op.kind.makes());
        let may_include = |sweep: &&Op| !sweep.is_done() || create.is_none_or(|create| !sweep.before(create));
        let changes = ops.iter().copied().filter(|op| op.kind.changes() && !op.kind.makes());
        let mut changes: Vec<_> = changes.chain(sweeps.iter().copied().filter(may_include)).collect();
        changes.sort_by_key(|op| op.end);
        Self { faults, create, changes }
    }

    /// Whether a change was answered OK, and certainly was one of this key.
    fn is_done(&self, change: &Op) -> bool {
        let includes = || self.create.is_some_and(|create| create.is_done() && create.before(change));
        change.is_done() && (change.key.is_some() || includes())
    }

    fn judge(&self, ops: &[&Op]) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut broken = |rule, because: Option<&Op>, offender: &Op| {
            let ops = because.into_iter().chain([offender]).cloned().collect();
            found.push(Violation { rule, ops });
        };
        for &op in ops {
            if matches!(op.answer, Answer::Wrong(_)) || op.seen().is_some_and(|(state, _)| !op.kind.leaves(state)) {
                broken(Rule::Wrong, None, op);
            }
            if op.answer == Answer::Missing && !self.may_be_unknown(op) {
                broken(Rule::Lost, self.create, op);
            }
            if !self.has_cause(op) {
                broken(Rule::Cause, None, op);
            }
            match op.kind {
                Kind::Validate | Kind::FinalValidate => self.judge_answer(op, &mut broken),
                kind if kind.changes() && kind != Kind::Revoke && op.is_done() => {
                    if let Some(end) = self.done(op).find(|done| done.kind.ends()) {
                        broken(Rule::Revoked, Some(end), op);
                    }
                }
                _ => {}
            }
        }
        self.judge_order(&mut broken);
        self.judge_end(ops, &mut broken);
        found
    }

    /// The changes that were answered OK before `op` started.
    fn done(&self, op: &Op) -> impl Iterator<Item = &'a Op> {
        let before = self.changes.partition_point(|change| change.end < op.start);
        self.changes[..before].iter().copied().filter(|change| self.is_done(change))
    }

    /// Rules 1 to 3.
    fn judge_answer(&self, op: &Op, broken: &mut impl FnMut(Rule, Option<&Op>, &Op)) {
        let Some((state, version)) = op.seen() else { return };
        let valid = state == State::Active;
        // The first reason is enough: one answer, one violation.
        for taken in self.done(op).filter(|done| done.kind.takes_away()) {
            let of = taken.seen().map_or(0, |(_, version)| version);
            let rule = match taken.kind.undone_by() {
                None if valid => Rule::Revoked,
                Some(by) if valid && !self.may_be_undone(taken, by, op) => match taken.kind {
                    Kind::Narrow => Rule::Narrowed,
                    _ => Rule::Suspended,
                },
                _ if version < of || (valid && version == of) => Rule::Stale,
                None if state != State::Revoked => Rule::Stale,
                _ => continue,
            };
            return broken(rule, Some(taken), op);
        }
    }

    /// Whether what undoes `taken` may have taken effect after it and be seen by `op`.
    fn may_be_undone(&self, taken: &Op, by: Kind, op: &Op) -> bool {
        self.changes.iter().any(|change| {
            change.kind == by
                && change.start <= op.end
                && change.effective_until().is_some_and(|until| until >= taken.start)
        })
    }

    /// Rule 4: whether `op` may find that the key is unknown.
    fn may_be_unknown(&self, op: &Op) -> bool {
        let Some(create) = self.create else { return true };
        let new = op.kind == Kind::Validate && op.start <= create.end + VISIBLE;
        self.faults.iter().filter(|fault| fault.end >= create.start && fault.start <= op.end).any(|fault| {
            match fault.effect {
                Effect::None => false,
                Effect::Loses => true,
                Effect::Forks => new && create.end >= fault.start,
            }
        })
    }

    /// Rule 5.
    fn has_cause(&self, op: &Op) -> bool {
        let state = match op.answer {
            Answer::Is(state, _) => state,
            Answer::Ended => State::Revoked,
            _ => return true,
        };
        let may_cause =
            |change: &Op| change.kind.causes(state) && change.start <= op.end && change.effective_until().is_some();
        // Who is suspended may be denied too.
        let made = self.create.filter(|create| create.kind == Kind::Rotated).and_then(Op::seen);
        let made_so = made.is_some_and(|(made, _)| made == state || (made, state) == (State::Suspended, State::Denied));
        state == State::Active
            || op.kind.causes(state)
            || made_so
            || self.changes.iter().any(|change| may_cause(change))
    }

    /// Rule 6.
    fn judge_order(&self, broken: &mut impl FnMut(Rule, Option<&Op>, &Op)) {
        let done: Vec<_> = self
            .create
            .into_iter()
            .chain(self.changes.iter().copied())
            .filter_map(|op| op.seen().map(|(state, version)| (op, state, version)))
            .collect();
        for (at, &(later, state, version)) in done.iter().enumerate() {
            let bad = done[..at].iter().find(|&&(earlier, before, other)| {
                let (first, writes) = (earlier.before(later), later.kind.always_writes());
                (first && version < other)
                    || (version == other && (state != before || (writes && (first || earlier.kind.always_writes()))))
            });
            if let Some((earlier, ..)) = bad {
                broken(Rule::Order, Some(earlier), later);
            }
        }
    }

    /// Rule 7.
    fn judge_end(&self, ops: &[&Op], broken: &mut impl FnMut(Rule, Option<&Op>, &Op)) {
        let finals: Vec<_> =
            ops.iter().copied().filter(|op| matches!(op.kind, Kind::FinalGet | Kind::FinalValidate)).collect();
        let Some(&first) = finals.first() else { return };
        for &op in &finals {
            let Some((state, version)) = op.seen() else {
                // Gone is judged by rule 4.
                if op.answer != Answer::Missing || first.answer != Answer::Missing {
                    broken(Rule::Converged, Some(first), op);
                }
                continue;
            };
            if op.answer != first.answer {
                broken(Rule::Converged, Some(first), op);
                continue;
            }
            let contradicts = |change: &&Op| match change.seen() {
                _ if change.kind.ends() && self.is_done(change) && state != State::Revoked => true,
                Some((left, of)) => version < of || (version == of && state != left),
                None => false,
            };
            if let Some(done) = self.create.into_iter().chain(self.changes.iter().copied()).find(contradicts) {
                broken(Rule::Converged, Some(done), op);
            }
        }
    }
}

impl Violation {
    /// What happened to the key around it, faults included, for people.
    pub(super) fn excerpt(&self, history: &History) -> String {
        let Some(offender) = self.ops.last() else { return String::new() };
        let margin = Duration::from_millis(500);
        let begin = self.ops.iter().map(|op| op.start).min().unwrap_or_default().saturating_sub(margin);
        let end = offender.end + margin;
        let mut lines: Vec<(Duration, String)> = Vec::new();
        let answers =
            history.ops.iter().filter(|op| op.key == offender.key || (op.key.is_none() && op.owner == offender.owner));
        let around = |op: &&Op| op.kind.changes() || (op.start + margin / 5 >= offender.start && op.end <= end);
        lines.extend(answers.filter(around).map(|op| {
            let mark = if self.ops.contains(op) { ">>" } else { "  " };
            (op.start, format!("{mark} {op}"))
        }));
        let overlaps = |fault: &&Fault| fault.start <= end && fault.end >= begin;
        lines.extend(history.faults.iter().filter(overlaps).map(|fault| (fault.start, format!("   {fault}"))));
        lines.sort();
        let skipped = lines.len().saturating_sub(80);
        let lines: Vec<_> = lines.into_iter().skip(skipped).map(|(_, line)| line).collect();
        format!("{:?}:\n{}", self.rule, lines.join("\n"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.rule)?;
        self.ops.iter().try_for_each(|op| write!(f, "\n    {op}"))
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
