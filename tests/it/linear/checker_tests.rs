//! Histories written by hand: those that the checker has to accept, and those that it has to reject,
//! each by the rule that it breaks.

use tonic::Code;

use super::*;

const ACTIVE: State = State::Active;
const DENIED: State = State::Denied;
const SUSPENDED: State = State::Suspended;
const REVOKED: State = State::Revoked;

/// A call on key 1 from `start` to `end`, in milliseconds.
fn op(kind: Kind, start: u64, end: u64, answer: Answer) -> Op {
    let (start, end) = (Duration::from_millis(start), Duration::from_millis(end));
    Op { key: Some(1), owner: 1, kind, replica: 0, start, end, answer }
}

fn is(kind: Kind, start: u64, end: u64, state: State, version: u64) -> Op {
    op(kind, start, end, Answer::Is(state, version))
}

fn unknown(kind: Kind, start: u64, end: u64) -> Op {
    op(kind, start, end, Answer::Unknown(Code::Unavailable))
}

/// A RevokeKeys of the owner of key 1.
fn swept(start: u64, end: u64) -> Op {
    Op { key: None, ..op(Kind::RevokeKeys, start, end, Answer::Swept(1, 0)) }
}

fn created() -> Op {
    is(Kind::Create, 0, 10, ACTIVE, 1)
}

fn validated(start: u64, end: u64, state: State, version: u64) -> Op {
    is(Kind::Validate, start, end, state, version)
}

fn flushall(start: u64, end: u64) -> Fault {
    let (start, end) = (Duration::from_millis(start), Duration::from_millis(end));
    Fault { name: "FLUSHALL", target: "redis".to_owned(), start, end, effect: Effect::Loses }
}

fn failover(start: u64, end: u64) -> Fault {
    Fault { effect: Effect::Forks, ..flushall(start, end) }
}

/// The rules that a history breaks, each once.
fn broken(ops: Vec<Op>, faults: Vec<Fault>) -> Vec<Rule> {
    let mut ops = ops;
    ops.push(created());
    let mut rules: Vec<_> = check(&History { ops, faults }).iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[track_caller]
fn accepts(ops: Vec<Op>) {
    assert_eq!(broken(ops, Vec::new()), []);
}

#[track_caller]
fn rejects(rule: Rule, ops: Vec<Op>) {
    assert_eq!(broken(ops, Vec::new()), [rule]);
}

#[test]
fn a_revoked_key_is_never_valid_again() {
    let revoke = || is(Kind::Revoke, 100, 200, REVOKED, 2);
    accepts(vec![revoke(), validated(201, 210, REVOKED, 2)]);
    accepts(vec![revoke(), validated(150, 400, ACTIVE, 1)]);
    accepts(vec![revoke(), validated(200, 210, ACTIVE, 1)]);
    rejects(Rule::Revoked, vec![revoke(), validated(201, 210, ACTIVE, 1)]);
    rejects(Rule::Revoked, vec![revoke(), validated(5000, 5001, ACTIVE, 3)]);
    // Not even when a resume of unknown outcome is under way.
    rejects(Rule::Revoked, vec![revoke(), unknown(Kind::Resume, 90, 300), validated(201, 210, ACTIVE, 3)]);
    // Nor after everything was lost.
    let flushed = vec![revoke(), validated(501, 510, ACTIVE, 1)];
    assert_eq!(broken(flushed, vec![flushall(300, 310)]), [Rule::Revoked]);
    // A revoke of unknown outcome promises nothing; one that is repeated until it is OK does.
    accepts(vec![unknown(Kind::Revoke, 100, 200), validated(300, 310, ACTIVE, 1)]);
    accepts(vec![unknown(Kind::Revoke, 100, 200), validated(300, 310, REVOKED, 2)]);
    let repeated = |answer| vec![unknown(Kind::Revoke, 20, 90), is(Kind::Revoke, 100, 200, REVOKED, 3), answer];
    accepts(repeated(validated(201, 210, REVOKED, 3)));
    rejects(Rule::Revoked, repeated(validated(201, 210, ACTIVE, 1)));
}

#[test]
fn no_key_of_the_owner_is_valid_again_after_revoke_keys() {
    accepts(vec![swept(100, 200), validated(201, 210, REVOKED, 2)]);
    accepts(vec![swept(100, 200), validated(150, 400, ACTIVE, 1)]);
    accepts(vec![swept(100, 200), validated(200, 210, ACTIVE, 1)]);
    rejects(Rule::Revoked, vec![swept(100, 200), validated(201, 210, ACTIVE, 1)]);
    rejects(Rule::Revoked, vec![swept(100, 200), validated(5000, 5001, ACTIVE, 3)]);
    // Not even when a resume of unknown outcome is under way, nor after everything was lost.
    rejects(Rule::Revoked, vec![swept(100, 200), unknown(Kind::Resume, 90, 300), validated(201, 210, ACTIVE, 3)]);
    let flushed = vec![swept(100, 200), validated(501, 510, ACTIVE, 1)];
    assert_eq!(broken(flushed, vec![flushall(300, 310)]), [Rule::Revoked]);
    // Nothing changes what has ended, and a refusal from before that is stale.
    accepts(vec![swept(100, 200), op(Kind::Resume, 300, 310, Answer::Ended), is(Kind::Revoke, 300, 310, REVOKED, 3)]);
    rejects(Rule::Revoked, vec![swept(100, 200), is(Kind::Resume, 300, 310, ACTIVE, 3)]);
    let suspended = |answer| vec![is(Kind::Suspend, 20, 30, SUSPENDED, 2), swept(100, 200), answer];
    accepts(suspended(validated(150, 210, SUSPENDED, 2)));
    rejects(Rule::Stale, suspended(validated(201, 210, SUSPENDED, 2)));
    // Keys of others are none of its business.
    accepts(vec![Op { owner: 2, ..swept(100, 200) }, validated(201, 210, ACTIVE, 1)]);
    let second = |answer: Op| Op { key: Some(2), ..answer };
    let both = vec![second(created()), swept(100, 200), validated(201, 210, REVOKED, 2)];
    rejects(Rule::Revoked, [both, vec![second(validated(201, 210, ACTIVE, 1))]].concat());
}

#[test]
fn revoke_keys_of_unknown_outcome_may_have_ended_any_key_at_any_time() {
    let failed = || Op { key: None, ..unknown(Kind::RevokeKeys, 100, 200) };
    for at in [110, 201, 5000] {
        accepts(vec![failed(), validated(at, at + 5, ACTIVE, 1)]);
        accepts(vec![failed(), validated(at, at + 5, REVOKED, 2)]);
    }
    accepts(vec![failed(), op(Kind::Suspend, 300, 310, Answer::Ended)]);
    // Even one that was created after everybody had given it up.
    let late = |answer: Op| Op { key: Some(2), ..answer };
    let created_late = || late(is(Kind::Create, 300, 310, ACTIVE, 1));
    accepts(vec![failed(), created_late(), late(validated(400, 410, REVOKED, 2))]);
    // But not before it was started.
    rejects(Rule::Cause, vec![failed(), validated(90, 99, REVOKED, 2)]);
    rejects(Rule::Cause, vec![failed(), op(Kind::Suspend, 90, 99, Answer::Ended)]);
    // One that is repeated until it is OK promises.
    rejects(Rule::Revoked, vec![failed(), swept(250, 260), validated(261, 270, ACTIVE, 1)]);
}

#[test]
fn revoke_keys_may_end_what_is_created_meanwhile_or_not() {
    let key = |answer: Op| Op { key: Some(2), ..answer };
    let creation = |start, end| key(is(Kind::Create, start, end, ACTIVE, 1));
    let with = |created, state, version| vec![swept(100, 200), created, key(validated(300, 310, state, version))];
    for (start, end) in [(50, 100), (50, 150), (50, 250), (110, 150), (150, 250), (200, 250)] {
        accepts(with(creation(start, end), ACTIVE, 1));
        accepts(with(creation(start, end), REVOKED, 2));
    }
    rejects(Rule::Revoked, with(creation(50, 99), ACTIVE, 1));
    accepts(with(creation(201, 250), ACTIVE, 1));
    rejects(Rule::Cause, with(creation(201, 250), REVOKED, 2));
}

#[test]
fn an_answer_to_revoke_keys_that_nobody_gets() {
    for answer in [Answer::Missing, Answer::Ended, Answer::Wrong("INTERNAL".to_owned())] {
        rejects(Rule::Wrong, vec![Op { answer, ..swept(100, 200) }]);
    }
}

#[test]
fn what_is_revoked_is_not_changed_any_more() {
    let revoke = || is(Kind::Revoke, 100, 200, REVOKED, 2);
    let ended = |kind| op(kind, 300, 310, Answer::Ended);
    accepts(vec![revoke(), ended(Kind::Suspend), ended(Kind::Resume)]);
    rejects(Rule::Revoked, vec![revoke(), is(Kind::Resume, 300, 310, ACTIVE, 3)]);
    rejects(Rule::Revoked, vec![revoke(), is(Kind::Suspend, 300, 310, SUSPENDED, 3)]);
    rejects(Rule::Cause, vec![ended(Kind::Resume), is(Kind::Revoke, 400, 410, REVOKED, 2)]);
}

#[test]
fn a_suspended_key_is_refused_until_it_may_be_resumed() {
    let suspend = || is(Kind::Suspend, 100, 200, SUSPENDED, 2);
    accepts(vec![suspend(), validated(201, 210, SUSPENDED, 2)]);
    accepts(vec![suspend(), validated(150, 210, ACTIVE, 1)]);
    rejects(Rule::Suspended, vec![suspend(), validated(201, 210, ACTIVE, 1)]);
    // Giving is seen late, and that is all right.
    let resume = || is(Kind::Resume, 300, 400, ACTIVE, 3);
    accepts(vec![suspend(), resume(), validated(401, 410, SUSPENDED, 2), validated(402, 410, ACTIVE, 3)]);
    // It may be seen before it is answered, but not before it started.
    accepts(vec![suspend(), resume(), validated(250, 310, ACTIVE, 3)]);
    rejects(Rule::Suspended, vec![suspend(), resume(), validated(250, 290, ACTIVE, 3)]);
    // One that ended before the suspension explains nothing; one that overlaps it may come after it.
    rejects(Rule::Suspended, vec![is(Kind::Resume, 20, 30, ACTIVE, 1), suspend(), validated(201, 210, ACTIVE, 1)]);
    accepts(vec![is(Kind::Resume, 90, 110, ACTIVE, 3), suspend(), validated(201, 210, ACTIVE, 3)]);
    // One of unknown outcome may take effect at any time, and one that was refused never.
    accepts(vec![unknown(Kind::Resume, 20, 30), suspend(), validated(901, 910, ACTIVE, 3)]);
    rejects(
        Rule::Suspended,
        vec![op(Kind::Resume, 300, 310, Answer::Ended), suspend(), validated(401, 410, ACTIVE, 3), {
            unknown(Kind::Revoke, 20, 30)
        }],
    );
}

#[test]
fn a_key_that_was_narrowed_is_refused_until_it_may_be_widened() {
    let narrow = || is(Kind::Narrow, 100, 200, DENIED, 2);
    accepts(vec![narrow(), validated(201, 210, DENIED, 2)]);
    accepts(vec![narrow(), validated(150, 210, ACTIVE, 1)]);
    accepts(vec![unknown(Kind::Narrow, 100, 200), validated(201, 210, ACTIVE, 1), validated(211, 212, DENIED, 2)]);
    rejects(Rule::Narrowed, vec![narrow(), validated(201, 210, ACTIVE, 1)]);
    rejects(Rule::Cause, vec![narrow(), validated(50, 60, DENIED, 2)]);
    let widen = || is(Kind::Widen, 300, 400, ACTIVE, 3);
    accepts(vec![narrow(), widen(), validated(401, 410, DENIED, 2), validated(402, 410, ACTIVE, 3)]);
    accepts(vec![narrow(), widen(), validated(250, 310, ACTIVE, 3)]);
    rejects(Rule::Narrowed, vec![narrow(), widen(), validated(250, 290, ACTIVE, 3)]);
    accepts(vec![unknown(Kind::Widen, 20, 30), narrow(), validated(901, 910, ACTIVE, 3)]);
    // To resume is not to widen, and a suspension hides that a key was narrowed.
    let resume = || is(Kind::Resume, 300, 400, DENIED, 4);
    let suspend = || is(Kind::Suspend, 210, 290, SUSPENDED, 3);
    accepts(vec![narrow(), suspend(), resume(), validated(401, 410, SUSPENDED, 3), validated(402, 410, DENIED, 4)]);
    rejects(Rule::Narrowed, vec![narrow(), suspend(), resume(), validated(401, 410, ACTIVE, 4)]);
    rejects(Rule::Suspended, vec![suspend(), is(Kind::Widen, 300, 400, SUSPENDED, 4), validated(401, 410, ACTIVE, 4)]);
    // Where it is so already nothing is written; but what has the same version is the same.
    accepts(vec![narrow(), is(Kind::Narrow, 210, 220, DENIED, 2)]);
    rejects(Rule::Order, vec![narrow(), is(Kind::Widen, 210, 220, ACTIVE, 2)]);
    rejects(Rule::Order, vec![narrow(), is(Kind::Widen, 150, 220, ACTIVE, 2)]);
    rejects(Rule::Wrong, vec![is(Kind::Widen, 210, 220, DENIED, 2), unknown(Kind::Narrow, 20, 30)]);
}

#[test]
fn a_key_that_was_rotated_is_never_valid_again_and_what_it_became_is_a_key() {
    let rotate = || is(Kind::Rotate, 100, 200, REVOKED, 2);
    let new = |op: Op| Op { key: Some(2), ..op };
    let rotated = |state| new(is(Kind::Rotated, 100, 200, state, 1));
    accepts(vec![rotate(), validated(150, 210, ACTIVE, 1), validated(201, 210, REVOKED, 2)]);
    accepts(vec![unknown(Kind::Rotate, 100, 200), validated(201, 210, ACTIVE, 1), validated(211, 220, REVOKED, 2)]);
    rejects(Rule::Revoked, vec![rotate(), validated(201, 210, ACTIVE, 1)]);
    rejects(Rule::Revoked, vec![rotate(), is(Kind::Rotate, 300, 310, REVOKED, 3)]);
    // Of the new one nothing is taken away, but what was taken from the old one.
    accepts(vec![rotate(), rotated(ACTIVE), new(validated(201, 210, ACTIVE, 1))]);
    rejects(Rule::Lost, vec![rotate(), rotated(ACTIVE), new(op(Kind::Validate, 201, 210, Answer::Missing))]);
    rejects(Rule::Cause, vec![rotate(), rotated(ACTIVE), new(validated(201, 210, REVOKED, 2))]);
    for state in [SUSPENDED, DENIED] {
        accepts(vec![rotate(), rotated(state), new(validated(201, 210, state, 1))]);
        rejects(Rule::Cause, vec![rotate(), rotated(ACTIVE), new(validated(201, 210, state, 1))]);
    }
    let resumed = new(is(Kind::Resume, 300, 310, DENIED, 2));
    accepts(vec![rotate(), rotated(SUSPENDED), resumed, new(validated(400, 410, DENIED, 2))]);
    // And it ends with the others of its owner.
    let swept = Op { key: None, ..op(Kind::RevokeKeys, 300, 400, Answer::Swept(1, 1)) };
    rejects(Rule::Revoked, vec![rotate(), rotated(ACTIVE), swept, new(validated(401, 410, ACTIVE, 1))]);
}

#[test]
fn a_resume_explains_nothing_before_it_in_the_order_of_versions() {
    // The resume overlaps both suspensions, but it was the one between them.
    let ops = |answer| {
        vec![
            is(Kind::Suspend, 100, 200, SUSPENDED, 2),
            is(Kind::Resume, 150, 900, ACTIVE, 3),
            is(Kind::Suspend, 300, 400, SUSPENDED, 4),
            answer,
        ]
    };
    accepts(ops(validated(250, 290, ACTIVE, 3)));
    accepts(ops(validated(350, 360, ACTIVE, 3)));
    accepts(ops(validated(500, 510, SUSPENDED, 4)));
    rejects(Rule::Stale, ops(validated(500, 510, ACTIVE, 3)));
    rejects(Rule::Stale, ops(validated(500, 510, ACTIVE, 4)));
    rejects(Rule::Stale, ops(validated(500, 510, SUSPENDED, 2)));
}

#[test]
fn a_refusal_from_before_a_revoke_is_stale() {
    let ops = |answer| vec![is(Kind::Suspend, 100, 200, SUSPENDED, 2), is(Kind::Revoke, 300, 400, REVOKED, 3), answer];
    accepts(ops(validated(350, 410, SUSPENDED, 2)));
    rejects(Rule::Stale, ops(validated(401, 410, SUSPENDED, 2)));
}

#[test]
fn a_key_that_was_created_is_known() {
    let missing = |kind, start| op(kind, start, start + 10, Answer::Missing);
    rejects(Rule::Lost, vec![missing(Kind::Validate, 20)]);
    rejects(Rule::Lost, vec![missing(Kind::Suspend, 20)]);
    // Only a loss that was not over when it was made, and had begun when it was missed, explains it.
    let when = |from, to| broken(vec![missing(Kind::Validate, 100)], vec![flushall(from, to)]);
    assert_eq!(when(50, 60), []);
    assert_eq!(when(105, 200), []);
    assert_eq!(when(111, 200), [Rule::Lost]);
    let late = Op { key: Some(2), ..is(Kind::Create, 300, 310, ACTIVE, 1) };
    let missed = Op { key: Some(2), ..missing(Kind::Validate, 400) };
    assert_eq!(broken(vec![late, missed], vec![flushall(50, 60)]), [Rule::Lost]);
}

#[test]
fn a_key_made_in_a_failover_is_seen_everywhere_a_little_later() {
    let missing = |kind, start| op(kind, start, start + 10, Answer::Missing);
    let in_failover = |op| broken(vec![op], vec![failover(0, 2000)]);
    assert_eq!(in_failover(missing(Kind::Validate, 400)), []);
    assert_eq!(in_failover(missing(Kind::Validate, 600)), [Rule::Lost]);
    assert_eq!(in_failover(missing(Kind::Revoke, 400)), [Rule::Lost]);
    assert_eq!(broken(vec![missing(Kind::Validate, 400)], vec![failover(11, 2000)]), [Rule::Lost]);
    assert_eq!(broken(vec![missing(Kind::Validate, 400)], vec![]), [Rule::Lost]);
}

#[test]
fn nothing_is_suspended_or_revoked_by_itself() {
    rejects(Rule::Cause, vec![validated(20, 30, SUSPENDED, 2)]);
    rejects(Rule::Cause, vec![validated(20, 30, REVOKED, 2)]);
    rejects(Rule::Cause, vec![validated(20, 30, SUSPENDED, 2), is(Kind::Suspend, 40, 50, SUSPENDED, 2)]);
    rejects(
        Rule::Cause,
        vec![validated(20, 30, REVOKED, 2), op(Kind::Revoke, 15, 20, Answer::Ended), {
            is(Kind::Revoke, 40, 50, REVOKED, 2)
        }],
    );
    accepts(vec![validated(20, 30, SUSPENDED, 2), unknown(Kind::Suspend, 15, 50)]);
}

#[test]
fn versions_follow_the_order_of_the_answers() {
    let suspend = |start, version| is(Kind::Suspend, start, start + 10, SUSPENDED, version);
    accepts(vec![suspend(100, 2), suspend(200, 3), is(Kind::Resume, 300, 310, ACTIVE, 4)]);
    accepts(vec![suspend(100, 3), suspend(105, 2)]);
    rejects(Rule::Order, vec![suspend(100, 3), suspend(200, 2)]);
    rejects(Rule::Order, vec![suspend(100, 2), suspend(105, 2)]);
    // A resume that finds nothing to do has the version that it found, if it may find that.
    accepts(vec![is(Kind::Resume, 100, 110, ACTIVE, 1), is(Kind::Resume, 200, 210, ACTIVE, 1)]);
    rejects(Rule::Order, vec![suspend(100, 2), is(Kind::Resume, 200, 210, ACTIVE, 2)]);
}

#[test]
fn in_the_end_all_agree() {
    let end = |kind, replica, answer| Op { replica, ..op(kind, 900, 910, answer) };
    let both = |get, validate| vec![end(Kind::FinalGet, 0, get), end(Kind::FinalValidate, 1, validate)];
    let revoke = || is(Kind::Revoke, 100, 200, REVOKED, 2);
    let with = |change, mut ends: Vec<Op>| {
        ends.push(change);
        ends
    };
    let (active, revoked) = (|version| Answer::Is(ACTIVE, version), |version| Answer::Is(REVOKED, version));
    accepts(both(active(1), active(1)));
    accepts(with(revoke(), both(revoked(2), revoked(2))));
    accepts(with(unknown(Kind::Revoke, 100, 200), both(revoked(2), revoked(2))));
    accepts(with(swept(100, 200), both(revoked(2), revoked(2))));
    assert_eq!(
        broken(with(swept(100, 200), both(active(1), active(1))), vec![]),
        [Rule::Revoked, Rule::Converged],
        "all keys of the owner were revoked"
    );
    rejects(Rule::Converged, both(active(1), active(2)));
    rejects(Rule::Converged, both(active(1), Answer::Unknown(Code::Unavailable)));
    rejects(Rule::Converged, both(Answer::Unknown(Code::Unavailable), active(1)));
    rejects(Rule::Converged, with(unknown(Kind::Revoke, 100, 200), both(active(1), revoked(2))));
    // What was answered OK is there.
    let suspend = || is(Kind::Suspend, 100, 200, SUSPENDED, 2);
    rejects(Rule::Converged, with(is(Kind::Resume, 100, 200, ACTIVE, 3), both(active(1), active(1))));
    assert_eq!(
        broken(with(revoke(), both(active(1), active(1))), vec![]),
        [Rule::Revoked, Rule::Converged],
        "the last ValidateKey is one like all others"
    );
    assert_eq!(
        broken(with(suspend(), both(active(2), active(2))), vec![]),
        [Rule::Suspended, Rule::Converged],
        "version 2 was suspended"
    );
    rejects(Rule::Lost, both(Answer::Missing, Answer::Missing));
    assert_eq!(broken(both(Answer::Missing, Answer::Missing), vec![flushall(50, 60)]), []);
    assert_eq!(broken(both(Answer::Missing, active(1)), vec![flushall(50, 60)]), [Rule::Converged]);
    assert_eq!(broken(both(active(1), Answer::Missing), vec![flushall(50, 60)]), [Rule::Converged]);
}

#[test]
fn an_answer_that_nobody_gets() {
    rejects(Rule::Wrong, vec![op(Kind::Validate, 20, 30, Answer::Wrong("OUTCOME_MALFORMED".to_owned()))]);
    rejects(Rule::Wrong, vec![is(Kind::Resume, 20, 30, SUSPENDED, 2), unknown(Kind::Suspend, 12, 13)]);
}

#[test]
fn errors_break_no_rule_and_keys_are_judged_alone() {
    accepts(vec![is(Kind::Revoke, 100, 200, REVOKED, 2), unknown(Kind::Validate, 300, 400)]);
    let other = |answer: Op| Op { key: Some(2), ..answer };
    accepts(vec![is(Kind::Revoke, 100, 200, REVOKED, 2), other(created()), other(validated(300, 310, ACTIVE, 1))]);
}

#[test]
fn an_excerpt_shows_the_offender_and_the_faults() {
    let ops = vec![created(), is(Kind::Revoke, 100, 200, REVOKED, 2), validated(201, 210, ACTIVE, 1)];
    let history = History { ops, faults: vec![flushall(190, 195)] };
    let violations = check(&history);
    let excerpt = violations[0].excerpt(&history);
    let marked = excerpt.lines().filter(|line| line.starts_with(">>")).count();
    assert!(marked == 2 && excerpt.contains("FLUSHALL") && excerpt.contains("Create"), "{excerpt}");
}
