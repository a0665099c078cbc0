//! Rules that the suite does not show by itself: each test fails when one of them is left out.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::key::{ApiKey, Cidrs, KeyId, Patch, Reason};
use keyclasp::service::sweep::{Selection, Swept};
use keyclasp::service::validate::Outcome;
use keyclasp::service::{Error, ErrorKind};
use keyclasp::store::conformance::sample::{self, holder};
use keyclasp::store::redis::{RedisConfig, RedisUrl};
use keyclasp::store::{Commit, Leases, MAX_WRITES, Outcome as Written};
use tokio::task::JoinHandle;

use super::suite::every_key;
use super::{Fleet, Process, TERM};
use crate::support::meddled::Verb;
use crate::support::redis::RedisServer;
use crate::support::until;

/// What a crash does that loses the members and not the keys.
const CRASH: [&str; 3] = ["DEL", "kc:{s00}:m", "kc:{s00}:epoch"];

/// Two processes, and a key that the second one has in memory: it has applied and acknowledged what there is, and does
/// nothing about it any more.
async fn with_a_warm_key(fleet: &Fleet) -> ([Process; 2], KeyId, ApiKey) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    // First: the entry of its creation drops the key from memory.
    b.up_to_date().await;
    b.warm(&text).await;
    ([a, b], id, text)
}

/// Two processes, and a key that the second one has in memory, by a lease of a settled history; it is silent.
async fn with_a_silent_one(fleet: &Fleet) -> ([Process; 2], KeyId, ApiKey) {
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    until("the history is settled", async || a.world.records.standings()[0].settled).await;
    b.warm(&text).await;
    b.fall_silent();
    ([a, b], id, text)
}

/// Rule 8: what is acknowledged has been dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_acknowledges_has_dropped_the_key_already() {
    let fleet = Fleet::standalone().await;
    let ([a, b], id, text) = with_a_warm_key(&fleet).await;
    // It says so, and goes no further.
    b.world.store.hold_up(Verb::Acknowledge);
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert!(!b.accepts(&text).await, "acknowledged and then accepted: {fence:?}");
    b.world.store.let_go(Verb::Acknowledge);
}

/// Rule 6: a lease is counted from when its beat was sent, and not from when that was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_took_half_a_term_grants_half_a_lease() {
    let fleet = Fleet::standalone().await;
    let ([a, b], id, text) = with_a_warm_key(&fleet).await;
    // It applies nothing any more, and so is waited for.
    b.world.store.lose_all(Verb::Log);
    let beats = b.world.store.hold_up(Verb::Beat);
    beats.one_waits().await;
    let clock = SystemClock::new();
    let revoking = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.revoke(id).await.fence }
    });
    // Longer, and the beat would be given up.
    until("half a term has passed", async || clock.elapsed() > TERM / 2).await;
    b.world.store.let_go(Verb::Beat);
    let fence = revoking.await.unwrap();
    while clock.elapsed() < 2 * TERM {
        assert!(!b.accepts(&text).await, "accepted after {fence:?}");
        tokio::task::yield_now().await;
    }
    b.world.store.pass(Verb::Log);
}

/// Rule 6: it beats, and is answered; but what it beats for is a tail that it never reaches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beat_grants_nothing_to_who_has_not_applied_its_tail() {
    let fleet = Fleet::standalone().await;
    let ([a, b], id, text) = with_a_warm_key(&fleet).await;
    b.world.store.lose_all(Verb::Log);
    let beats = b.world.store.calls(Verb::Beat);
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert!(b.world.store.calls(Verb::Beat) > beats, "it did not beat: nothing is shown");
    assert!(!b.accepts(&text).await, "accepted after {fence:?}");
    b.world.store.pass(Verb::Log);
    assert_eq!(b.check(&text).await, Outcome::Revoked);
}

/// Rule 5: those who hold a lease of an earlier history are in nobody's table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_new_history_the_leases_of_the_old_one_are_waited_for() {
    let fleet = Fleet::standalone().await;
    let ([a, b], id, text) = with_a_silent_one(&fleet).await;
    fleet.primary().run(&CRASH);
    until("a revocation is answered", async || a.world.try_revoke(id).await.is_ok()).await;
    assert!(!b.accepts(&text).await, "accepted by a lease of the history before");
}

/// Rule 5: acknowledgements are looked for in the history of the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_while_the_history_changes_does_not_know() {
    let fleet = Fleet::standalone().await;
    let ([a, b], id, text) = with_a_silent_one(&fleet).await;
    let tail = a.tail(id).await;
    let revoking = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.try_revoke(id).await }
    });
    until("the revocation is written", async || a.redis().members(0).await.is_ok_and(|found| found.tail > tail)).await;
    fleet.primary().run(&CRASH);
    let answer = revoking.await.unwrap();
    assert!(answer.is_err() || !b.accepts(&text).await, "accepted after {answer:?}");
}

/// What others have seen of the members counts only if they looked after the change was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_look_at_the_members_says_nothing_of_a_later_change() {
    let fleet = Fleet::standalone().await;
    let [a, c] = fleet.processes().await;
    let (first, _) = a.world.key(None).await;
    let (id, text) = a.world.key(None).await;
    // Waits, and looks.
    c.fall_silent();
    a.world.revoke(first).await;
    let b = fleet.join().await;
    b.warm(&text).await;
    b.world.store.hold_up(Verb::Log);
    let fence = a.world.revoke(id).await.fence.unwrap();
    assert!(!b.accepts(&text).await, "accepted after {fence:?}");
    b.world.store.let_go(Verb::Log);
}

pub(super) fn every_key_of_the_realm() -> Selection {
    Selection { owner: None, ..every_key() }
}

/// More keys than one commit takes; the last of them has a text.
async fn two_commits(a: &Process) -> (KeyId, ApiKey) {
    let now = SystemClock::new().now();
    let ada = holder("acme", "ada");
    let writes = (0..u32::try_from(MAX_WRITES).unwrap()).map(|n| sample::creation(&ada.record(n, now))).collect();
    let commit = Commit { events: Vec::new(), ..sample::commit(writes) };
    assert!(matches!(a.store.commit(&commit, now).await.unwrap(), Written::Done(_)));
    until("it is later", async || SystemClock::new().now() > now).await;
    a.world.key(None).await
}

/// Begins to revoke all of those. The first commit is written, and goes on when commits are let go.
async fn between_two_commits(a: &Process) -> JoinHandle<Result<Swept, Error>> {
    let commits = a.world.store.hold_up(Verb::Commit);
    let sweeping = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.service.sweep.revoke(&world.call, &every_key_of_the_realm()).await }
    });
    commits.one_waits().await;
    sweeping
}

/// RevokeKeys: those are waited for who are members when the last commit is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_between_two_commits_is_waited_for() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    let (_, text) = two_commits(&a).await;
    let sweeping = between_two_commits(&a).await;
    let b = fleet.join().await;
    b.warm(&text).await;
    b.world.store.hold_up(Verb::Log);
    a.world.store.let_go(Verb::Commit);
    let swept = sweeping.await.unwrap().unwrap();
    assert!(!b.accepts(&text).await, "accepted after {swept:?}");
    b.world.store.let_go(Verb::Log);
}

/// RevokeKeys: what was written in two histories is not known to be in the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_revoked_in_two_histories_are_not_answered_ok() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    two_commits(&a).await;
    let before = a.redis().checked();
    let sweeping = between_two_commits(&a).await;
    fleet.primary().run(&CRASH);
    until("it is another history", async || a.redis().checked() != before).await;
    a.world.store.let_go(Verb::Commit);
    let error = sweeping.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable, "{error:?}");
}

/// A change that was found made already was found in a history that may be lost by the time that it is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_in_another_history_is_looked_for_again() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    let (id, _) = a.world.key(None).await;
    let patch = Patch { allowed_cidrs: Some(Cidrs::parse(&[] as &[&str]).unwrap()), ..Patch::default() };
    let before = a.redis().checked();
    let reads = a.world.store.hold_up(Verb::Get);
    let updating = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.service.keys.update(&world.call, id, patch, None).await }
    });
    reads.one_waits().await;
    fleet.primary().run(&CRASH);
    until("it is another history", async || a.redis().checked() != before).await;
    a.world.store.let_go(Verb::Get);
    let gets = a.world.store.calls(Verb::Get);
    updating.await.unwrap().unwrap();
    assert!(a.world.store.calls(Verb::Get) > gets, "it was taken for what is there now");
}

/// Rule 9c: a lease of one history, and a store that has gone back to an earlier one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_in_an_earlier_history_than_the_lease_is_of_is_not_answered() {
    let fleet = Fleet::replicated().await;
    let a = fleet.join().await;
    let (id, text) = a.world.key(None).await;
    let Fleet::Replicated(servers, proxy) = &fleet else { panic!("another set-up") };
    let old = a.redis().checked();
    servers.replica.run(&["REPLICAOF", "NO", "ONE"]);
    let _third = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", servers.replica.port())]);
    proxy.point_at(servers.replica.port());
    proxy.cut();
    let url = RedisUrl::parse(&servers.replica.url()).unwrap();
    let c = fleet.join_as(RedisConfig { replicas: 1, lease: Some(TERM), ..RedisConfig::new(url) }).await;
    until("it is in the new history", async || {
        a.world.records.standings()[0].epoch.map(|epoch| vec![epoch]) == Some(c.redis().checked())
            && a.world.records.holds_all()
    })
    .await;
    a.warm(&text).await;
    until("a revocation is answered", async || c.world.try_revoke(id).await.is_ok()).await;
    proxy.point_at(servers.primary.port());
    proxy.cut();
    let clock = SystemClock::new();
    let mut went_back = false;
    while clock.elapsed() < 3 * TERM {
        assert!(!a.accepts(&text).await, "accepted by way of the old primary");
        went_back |= a.redis().checked() == old;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(went_back, "the store did not go back: nothing is shown");
}

/// What is written by who waits is known to it only by its own log; it may be all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_revokes_does_not_accept_though_its_own_log_stands_still() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    let (id, text) = a.world.key(None).await;
    let (other, other_text) = a.world.key(None).await;
    let (third, third_text) = a.world.key(None).await;
    a.up_to_date().await;
    for text in [&text, &other_text, &third_text] {
        a.warm(text).await;
    }
    a.world.store.hold_up(Verb::Log);
    a.world.revoke(id).await;
    assert!(!a.accepts(&text).await, "a revoked key");
    // By somebody else, who does not wait for anybody.
    let b = fleet.join().await;
    b.world.store.lose_one(Verb::Commit);
    b.world.try_revoke(other).await.unwrap_err();
    let reason = Reason::from_static("");
    a.world.service.keys.revoke(&a.world.call, other, reason, None).await.unwrap();
    assert!(!a.accepts(&other_text).await, "a key that somebody else had revoked");
    b.world.store.lose_one(Verb::Commit);
    b.world.try_revoke(third).await.unwrap_err();
    a.world.service.sweep.revoke(&a.world.call, &every_key()).await.unwrap();
    assert!(!a.accepts(&third_text).await, "a key that all keys were revoked with");
    a.world.store.let_go(Verb::Log);
}
