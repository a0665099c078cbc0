//! What holds on every set-up: each test is run on all of them, but for those that are about leases.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::key::{Cidrs, OwnerKind, OwnerRef, Patch, Realm, Reason, RequestId};
use keyclasp::service::ErrorKind;
use keyclasp::service::access::Call;
use keyclasp::service::lifecycle::Rotation;
use keyclasp::service::sweep::Selection;
use keyclasp::service::validate::Outcome;
use keyclasp::store::conformance::sample::{self, Holder, holder};
use keyclasp::store::redis::RedisConfig;
use keyclasp::store::{Commit, MAX_WRITES, Outcome as Written};

use super::{Fleet, TERM};
use crate::support::meddled::Verb;
use crate::support::until;

/// Declares each test for a set-up. That somebody's log is held up says nothing on the embedded store: nobody reads it.
macro_rules! on {
    ($fleet:path) => {
        $crate::fence::suite::on!($fleet,
            what_is_taken_away_is_gone_everywhere_when_the_call_returns
            a_load_that_raced_with_a_revocation_is_not_kept
            after_an_unknown_outcome_the_repeated_revocation_holds
            a_replay_of_a_request_id_is_fenced_too
            who_finds_a_change_made_already_waits_for_it_too
            a_short_deadline_is_told_that_the_revocation_is_not_fenced_and_a_repeat_is
            ten_thousand_keys_are_revoked_under_one_fence
        );
    };
    ($fleet:path, $($name:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::fence::suite::$name($fleet().await).await;
        })+
    };
}
pub(super) use on;

/// Declares those that are about who answers from memory by a lease. The embedded store has nothing of it: its
/// directory is locked, so nobody joins, leaves or falls silent beside its one process; that one asks for no lease and
/// reads no log, because the store's writer tells it of each change before the change is answered.
macro_rules! on_leases {
    ($fleet:path) => {
        $crate::fence::suite::on!($fleet,
            a_process_that_joins_during_a_revocation_reads_the_revoked_key
            a_process_that_died_is_waited_for_once
            a_process_that_does_not_read_its_log_is_waited_for_and_accepts_nothing_then
            who_leaves_is_not_waited_for
            a_trimmed_log_empties_the_memory
        );
    };
}
pub(super) use on_leases;

pub(super) async fn what_is_taken_away_is_gone_everywhere_when_the_call_returns(fleet: Fleet) {
    let [a, b, c] = fleet.processes().await;
    let call = &a.world.call;
    for change in ["revoke", "suspend", "narrow", "rotate", "sweep", "own"] {
        let (id, text) = b.world.key(None).await;
        for process in [&a, &b, &c] {
            process.warm(&text).await;
        }
        let keys = &a.world.service.keys;
        let fence = match change {
            "revoke" => a.world.revoke(id).await.fence,
            "suspend" => a.world.suspend(id).await.fence,
            "narrow" => {
                let nowhere = Some(Cidrs::parse(&["192.0.2.0/24"]).unwrap());
                let patch = Patch { allowed_cidrs: nowhere, ..Patch::default() };
                keys.update(call, id, patch, None).await.unwrap().fence
            }
            "rotate" => {
                let rotation = Rotation { id, grace: Duration::ZERO, ttl: None, request_id: None };
                Some(keys.rotate(call, &rotation).await.unwrap().fence)
            }
            "sweep" => {
                let swept = a.world.service.sweep.revoke(call, &every_key()).await.unwrap();
                assert_eq!(swept.fences.len(), 1);
                swept.fences.first().copied()
            }
            _ => {
                let reason = Reason::from_static("");
                Some(a.world.service.own.revoke(&text, reason, "192.0.2.9", None).await.unwrap())
            }
        };
        for process in [&a, &b, &c] {
            assert!(!process.accepts(&text).await, "{change}: still accepted");
            assert_ne!(process.check(&text).await, Outcome::Valid, "{change}: accepted later");
        }
        let fence = fence.unwrap();
        // On a busy machine one of them may have been silent for longer than its lease.
        assert_eq!(fence.acknowledged + fence.lapsed, fleet.members(3), "{change}: {fence:?}");
        assert!(fence.position > 0, "{change}: {fence:?}");
    }
}

pub(super) fn every_key() -> Selection {
    Selection {
        realm: Realm::parse("acme").unwrap(),
        owner: Some(OwnerRef::parse(OwnerKind::External, "ada").unwrap()),
        created_before: None,
        scope: None,
        reason: Reason::from_static(""),
        dry_run: false,
    }
}

pub(super) async fn a_load_that_raced_with_a_revocation_is_not_kept(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    let reads = b.world.store.hold_up(Verb::Get);
    let raced = tokio::spawn({
        let (world, text) = (Arc::clone(&b.world), text.clone());
        async move { world.try_check(&text).await }
    });
    // It has read the record, and has not been told so yet.
    reads.one_waits().await;
    b.world.store.pass(Verb::Get);
    a.world.revoke(id).await;
    let accepts = tokio::time::timeout(Duration::from_secs(30), b.accepts(&text)).await;
    assert!(!accepts.expect("the check joined a read that is older than the revocation"), "accepted from memory");
    reads.let_one_go();
    // It began before the revocation, and may answer either way.
    let _ = raced.await.unwrap();
    assert!(!b.accepts(&text).await, "what the raced check read was kept");
    assert_eq!(b.check(&text).await, Outcome::Revoked);
}

pub(super) async fn a_process_that_joins_during_a_revocation_reads_the_revoked_key(fleet: Fleet) {
    // Long enough to join meanwhile, as a rule.
    let config = || RedisConfig { lease: Some(8 * TERM), ..fleet.config() };
    let (a, b) = (fleet.join_as(config()).await, fleet.join_as(config()).await);
    let mut late = Vec::new();
    for _ in 0..5 {
        let (id, text) = a.world.key(None).await;
        b.warm(&text).await;
        let before = a.epoch(id).await;
        b.world.store.hold_up(Verb::Log);
        let position = a.tail(id).await;
        let revoking = tokio::spawn({
            let world = Arc::clone(&a.world);
            async move { world.revoke(id).await }
        });
        until("the revocation is written", async || a.tail(id).await > position).await;
        // It was no member when the revocation was written, so nobody waits for it.
        let c = fleet.join_as(config()).await;
        assert_eq!(c.check(&text).await, Outcome::Revoked);
        let meanwhile = !revoking.is_finished();
        let fence = revoking.await.unwrap().fence.unwrap();
        let members = 2 + u32::try_from(late.len()).unwrap();
        assert_eq!((fence.acknowledged + fence.lapsed, a.epoch(id).await), (members, before));
        assert!(!b.accepts(&text).await);
        if meanwhile {
            return;
        }
        b.world.store.let_go(Verb::Log);
        late.push(c);
    }
    panic!("nobody joined during a revocation: nothing is shown");
}

pub(super) async fn after_an_unknown_outcome_the_repeated_revocation_holds(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    // The first one is written, and its answer gets lost; nobody waited for anybody.
    let logs = b.world.store.hold_up(Verb::Log);
    a.world.store.lose_one(Verb::Commit);
    let error = a.world.try_revoke(id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable, "{error:?}");
    // The second finds the key revoked, and has to wait all the same.
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert!(!b.accepts(&text).await, "the repeated revocation did not wait for who has the key in memory");
    fleet.assert_lapsed(&fence, 1);
    b.world.store.let_go(Verb::Log);
    drop(logs);
    assert_eq!(b.check(&text).await, Outcome::Revoked);
}

pub(super) async fn a_replay_of_a_request_id_is_fenced_too(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    let request = || Some(RequestId::parse("one-and-the-same").unwrap());
    let revoke = || a.world.service.keys.revoke(&a.world.call, id, Reason::from_static(""), request());
    b.world.store.hold_up(Verb::Log);
    a.world.store.lose_one(Verb::Commit);
    revoke().await.unwrap_err();
    let fence = revoke().await.unwrap().fence.unwrap();
    assert!(!b.accepts(&text).await, "the replay did not wait for who has the key in memory");
    fleet.assert_lapsed(&fence, 1);
    b.world.store.let_go(Verb::Log);
    assert_eq!(b.check(&text).await, Outcome::Revoked);
}

pub(super) async fn a_process_that_died_is_waited_for_once(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (first, first_text) = a.world.key(None).await;
    let (second, second_text) = a.world.key(None).await;
    b.warm(&first_text).await;
    b.warm(&second_text).await;
    b.fall_silent();
    let fence = a.world.revoke(first).await.fence.unwrap();
    assert!(!b.accepts(&first_text).await);
    assert_eq!(fence.lapsed, 1, "{fence:?}");
    assert_eq!(a.members(first).await, 1, "its row stayed");
    let fence = a.world.revoke(second).await.fence.unwrap();
    assert_eq!((fence.acknowledged, fence.lapsed), (1, 0));
    assert!(!b.accepts(&second_text).await);
}

pub(super) async fn a_process_that_does_not_read_its_log_is_waited_for_and_accepts_nothing_then(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    // It beats, and is answered; but what it beats for is a tail that it never reaches.
    b.world.store.hold_up(Verb::Log);
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert!(!b.accepts(&text).await);
    assert_eq!(fence.lapsed, 1, "{fence:?}");
    b.world.store.let_go(Verb::Log);
    assert_eq!(b.check(&text).await, Outcome::Revoked);
}

pub(super) async fn who_leaves_is_not_waited_for(fleet: Fleet) {
    let [a, mut b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    b.world.records.leave();
    assert!(!b.accepts(&text).await, "it accepts without a lease");
    let following = &mut b.membership.as_mut().unwrap().following;
    tokio::time::timeout(Duration::from_secs(30), following).await.unwrap().unwrap();
    assert_eq!(a.members(id).await, 1, "its row stayed");
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert_eq!((fence.acknowledged, fence.lapsed), (1, 0), "{fence:?}");
    assert!(!b.accepts(&text).await);
}

pub(super) async fn who_finds_a_change_made_already_waits_for_it_too(fleet: Fleet) {
    let [a, b, c] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    // Where there is one process only, it is the log that tells the position of what was found.
    if fleet.has_leases() {
        b.world.store.hold_up(Verb::Log);
    }
    let narrow = |process: &super::Process| {
        let world = Arc::clone(&process.world);
        async move {
            let allowed_cidrs = Some(Cidrs::parse(&["192.0.2.0/24"]).unwrap());
            let patch = Patch { allowed_cidrs, ..Patch::default() };
            world.service.keys.update(&world.call, id, patch, None).await
        }
    };
    a.world.store.lose_one(Verb::Commit);
    narrow(&a).await.unwrap_err();
    // To this one there is nothing to do.
    narrow(&c).await.unwrap();
    assert!(!b.accepts(&text).await, "a change that was found made already was not waited for");
    b.world.store.let_go(Verb::Log);
}

pub(super) async fn a_trimmed_log_empties_the_memory(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    let (_, other) = a.world.key(None).await;
    b.warm(&text).await;
    b.warm(&other).await;
    let turns = b.standing(id).turns;
    // Each time that it reads the log, the entries that it needs have gone.
    let logs = b.world.store.hold_up(Verb::Log);
    let revoking = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.revoke(id).await }
    });
    logs.one_waits().await;
    // What it has read already goes on; what comes next is trimmed before it is read.
    let (third, _) = a.world.key(None).await;
    let log = format!("kc:{{s{:02x}}}:log", a.shard_of(id));
    fleet.primary().run(&["XTRIM", &log, "MAXLEN", "0"]);
    b.world.store.let_go(Verb::Log);
    revoking.await.unwrap();
    a.world.revoke(third).await;
    until("the gap is noticed", async || b.standing(id).turns > turns).await;
    assert_eq!(b.check(&text).await, Outcome::Revoked);
    assert_eq!(b.check(&other).await, Outcome::Valid);
}

pub(super) async fn a_short_deadline_is_told_that_the_revocation_is_not_fenced_and_a_repeat_is(fleet: Fleet) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    b.fall_silent();
    let ends = a.world.clock.elapsed() + TERM / 10;
    let hurried = Call { ends: Some(ends), ..Call::clone(&a.world.call) };
    let answer = a.world.service.keys.revoke(&hurried, id, Reason::from_static(""), None).await;
    if fleet.has_leases() {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFenced, "{error:?}");
        assert!(error.retry_after.is_some_and(|after| after <= 2 * TERM), "{error:?}");
    } else {
        // Nobody is waited for, so no time is too short.
        fleet.assert_lapsed(&answer.unwrap().fence.unwrap(), 0);
        assert!(!b.accepts(&text).await, "answered, and still accepted");
    }
    assert_eq!(a.check(&text).await, Outcome::Revoked, "it is stored");
    a.world.revoke(id).await;
    assert!(!b.accepts(&text).await);
}

pub(super) async fn ten_thousand_keys_are_revoked_under_one_fence(fleet: Fleet) {
    const KEYS: u32 = 10_000;
    let [a, b] = fleet.processes().await;
    let now = SystemClock::new().now();
    let owner = OwnerRef::parse(OwnerKind::External, "ada").unwrap();
    let ada = Holder { owner, ..holder("acme", "ada") };
    // The owner's limit speaks against one more, so this comes first: the only one that has a text.
    let (id, text) = a.world.key(None).await;
    let records: Vec<_> = (1..KEYS).map(|n| ada.record(n, now)).collect();
    for some in records.chunks(MAX_WRITES) {
        let commit = Commit { events: Vec::new(), ..sample::commit(some.iter().map(sample::creation).collect()) };
        assert!(matches!(a.store.commit(&commit, now).await.unwrap(), Written::Done(_)));
    }
    b.warm(&text).await;
    let before = a.tail(id).await;
    let commits = a.world.store.calls(Verb::Commit);
    let swept = a.world.service.sweep.revoke(&a.world.call, &every_key()).await.unwrap();
    assert!(!b.accepts(&text).await, "accepted after {swept:?}");
    assert_eq!((swept.revoked, swept.fences.len()), (u64::from(KEYS), 1));
    let fence = swept.fences[0];
    assert_eq!(fence.position, before + u64::from(KEYS), "the fence is not on the last entry");
    assert!(fence.acknowledged + fence.lapsed <= fleet.members(2), "{fence:?}");
    let commits = a.world.store.calls(Verb::Commit) - commits;
    assert!(commits >= u64::from(KEYS) / MAX_WRITES as u64 && commits < 200, "{commits} commits");
    for standing in b.world.records.standings() {
        assert_eq!(standing.lag, 0, "it was answered before the other process had applied everything");
    }
}
