//! Ways around the promise that a reading of the code found, each as the test that fails while it is open.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::fence::lease::{Lease, Turn};
use keyclasp::key::{Cidrs, Name, Patch, Reason};
use keyclasp::service::ErrorKind;
use keyclasp::service::validate::Outcome;
use keyclasp::store::redis::{RedisConfig, RedisUrl};
use keyclasp::store::{Beaten, Epoch, LogPage};

use super::Fleet;
use super::suite::every_key;
use crate::support::meddled::Verb;
use crate::support::redis::RedisServer;
use crate::support::until;

/// Who looks for keys in a history that was left finds none, has nothing to write, and so nobody has to confirm
/// that it is still the present one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_all_keys_by_way_of_an_old_primary_is_not_answered_ok() {
    let fleet = Fleet::replicated().await;
    let Fleet::Replicated(servers, proxy) = &fleet else { panic!("another set-up") };
    // Its address does not move: it is led back to the old one however often it connects.
    let url = RedisUrl::parse(&servers.primary.url()).unwrap();
    let a = fleet.join_as(RedisConfig { url, ..fleet.config() }).await;
    servers.replica.run(&["REPLICAOF", "NO", "ONE"]);
    proxy.point_at(servers.replica.port());
    let _third = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", servers.replica.port())]);
    let c = fleet.join().await;
    let mut made = None;
    until("a key is made", async || {
        made = c.world.try_key().await;
        made.is_some()
    })
    .await;
    let (_, text) = made.unwrap();
    c.warm(&text).await;
    let swept = a.world.service.sweep.revoke(&a.world.call, &every_key()).await;
    assert!(swept.is_err() || !c.accepts(&text).await, "answered {swept:?}, and the key is accepted");
}

/// That a key has ended by itself may be known here alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_all_keys_waits_for_who_does_not_know_that_one_has_expired() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    b.world.store.hold_up(Verb::Log);
    a.world.store.lose_one(Verb::Commit);
    let end = SystemClock::new().now().after(Duration::from_millis(30));
    let patch = Patch { expires_at: Some(Some(end)), ..Patch::default() };
    a.world.service.keys.update(&a.world.call, id, patch, None).await.unwrap_err();
    until("it has expired", async || a.check(&text).await == Outcome::Expired).await;
    let swept = a.world.service.sweep.revoke(&a.world.call, &every_key()).await.unwrap();
    assert!(!b.accepts(&text).await, "accepted after {swept:?}");
    b.world.store.let_go(Verb::Log);
}

/// A change that was made already comes with one that takes nothing away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_waits_for_the_part_of_it_that_was_made_already() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    b.world.store.hold_up(Verb::Log);
    let patch = |name| Patch {
        allowed_cidrs: Some(Cidrs::parse(&["192.0.2.0/24"]).unwrap()),
        name: Some(Name::parse(name).unwrap()),
        ..Patch::default()
    };
    let keys = &a.world.service.keys;
    a.world.store.lose_one(Verb::Commit);
    keys.update(&a.world.call, id, patch("one"), None).await.unwrap_err();
    keys.update(&a.world.call, id, patch("two"), None).await.unwrap();
    assert!(!b.accepts(&text).await, "accepted from everywhere after an answer that says from where it may be used");
    b.world.store.let_go(Verb::Log);
}

/// The connections of a process lead to a server that is a replica now; the address does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_connected_to_what_is_a_replica_now_goes_to_where_the_address_leads() {
    let fleet = Fleet::replicated().await;
    let a = fleet.join().await;
    let (_, text) = a.world.key(None).await;
    let Fleet::Replicated(servers, proxy) = &fleet else { panic!("another set-up") };
    servers.replica.run(&["REPLICAOF", "NO", "ONE"]);
    proxy.point_at(servers.replica.port());
    servers.primary.run(&["REPLICAOF", "127.0.0.1", &servers.replica.port().to_string()]);
    let c = fleet.join().await;
    assert_eq!(c.check(&text).await, Outcome::Valid);
    assert_eq!(a.check(&text).await, Outcome::Valid);
}

/// A beat may be answered in a history that had come and gone before the answer arrived.
#[test]
fn an_answer_of_a_history_that_was_passed_over_is_not_a_new_one() {
    let second = Duration::from_secs(1);
    let beaten = |epoch| Beaten { epoch: Epoch([epoch; 32]), tail: 1, settled: false, members: Vec::new() };
    let page = |epoch| LogPage { epoch: Epoch([epoch; 32]), tail: 1, gap: true, entries: Vec::new() };
    let mut lease = Lease::default();
    assert_eq!(lease.beaten(second, second, second, &beaten(1)), Turn::Anew);
    // A beat is sent in history 2. Before its answer arrives, a page of the log is of history 3.
    assert_eq!(lease.read(2 * second, &page(3)), Turn::Anew);
    lease.beaten(second, 2 * second, second, &beaten(2));
    assert_ne!(lease.read(3 * second, &page(3)), Turn::Stale, "the present history counts as one that was left");
}

/// Whoever holds a key may call, and need not wait for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_a_key_again_and_again_without_time_to_wait_has_it_written_once_a_second() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    let (id, text) = a.world.key(None).await;
    a.world.revoke(id).await;
    // From now on there is always somebody to wait for.
    b.world.store.hold_up(Verb::Log);
    let own = |ends| a.world.service.own.revoke(&text, Reason::from_static(""), "192.0.2.9", ends);
    let (position, began) = (a.tail(id).await, a.world.clock.elapsed());
    for _ in 0..100 {
        let error = own(Some(a.world.clock.elapsed() + Duration::from_millis(10))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFenced, "{error:?}");
    }
    let writes = a.tail(id).await - position;
    let took = a.world.clock.elapsed().saturating_sub(began).as_secs();
    assert!((1..=took + 1).contains(&writes), "{writes} writes in {took} s");
    // Who has the time is told, of whichever write it was.
    let fence = own(None).await.unwrap();
    assert_eq!(fence.acknowledged + fence.lapsed, 2, "{fence:?}");
    b.world.store.let_go(Verb::Log);
}

/// What a deadline does to a call: it is dropped where it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_was_given_up_before_its_answer_came_leaves_nothing_in_memory() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    let (id, text) = a.world.key(None).await;
    a.warm(&text).await;
    // Nor does it learn of it by the log.
    a.world.store.hold_up(Verb::Log);
    let commits = a.world.store.hold_up(Verb::Commit);
    let revoking = tokio::spawn({
        let world = Arc::clone(&a.world);
        async move { world.try_revoke(id).await }
    });
    commits.one_waits().await;
    revoking.abort();
    assert!(revoking.await.unwrap_err().is_cancelled());
    assert!(!a.accepts(&text).await, "what may have been changed is still in memory");
    a.world.store.let_go(Verb::Log);
}

/// That a key is active, or has another name, is told to the others and not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_nothing_away_and_changes_nothing_waits_for_nobody() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    let (id, _) = a.world.key(None).await;
    b.world.store.hold_up(Verb::Log);
    // An entry that is never applied there.
    a.world.key(None).await;
    let before = a.world.records.waits();
    a.world.resume(id).await;
    let patch = Patch { name: Some(Name::parse("a key").unwrap()), ..Patch::default() };
    let renamed = a.world.service.keys.update(&a.world.call, id, patch, None).await.unwrap();
    assert_eq!((renamed.key.record.version, renamed.fence), (1, None), "it changed something");
    assert_eq!(a.world.records.waits(), before, "it waited for members");
    b.world.store.let_go(Verb::Log);
}

/// It is answered only once it is certain that what was found is not lost any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_is_not_answered_ok_while_nobody_confirms_what_was_found() {
    let fleet = Fleet::replicated().await;
    let a = fleet.join().await;
    let (id, _) = a.world.key(None).await;
    a.world.resume(id).await;
    let Fleet::Replicated(servers, _) = &fleet else { panic!("another set-up") };
    servers.replica.run(&["REPLICAOF", "NO", "ONE"]);
    let resumed = a.world.service.keys.resume(&a.world.call, id, Reason::from_static("")).await;
    assert_eq!(resumed.unwrap_err().kind, ErrorKind::StoreUnavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_finds_its_limits_set_already_says_what_it_waited_for() {
    let fleet = Fleet::standalone().await;
    let [a, _b] = fleet.processes().await;
    let (id, _) = a.world.key(None).await;
    let patch = Patch { allowed_cidrs: Some(Cidrs::parse(&["192.0.2.0/24"]).unwrap()), ..Patch::default() };
    let keys = &a.world.service.keys;
    let first = keys.update(&a.world.call, id, patch.clone(), None).await.unwrap();
    let again = keys.update(&a.world.call, id, patch, None).await.unwrap();
    assert_eq!(again.key.record.version, first.key.record.version, "it was written again");
    let fence = again.fence.expect("it waited, and does not say for what");
    assert_eq!((fence.position, fence.acknowledged + fence.lapsed), (first.fence.unwrap().position, 2), "{fence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_without_a_lease_is_not_told_that_something_may_have_been_changed() {
    let fleet = Fleet::standalone().await;
    let a = fleet.join().await;
    let (_, text) = a.world.key(None).await;
    a.warm(&text).await;
    a.fall_silent();
    until("it holds no lease any more", async || !a.accepts(&text).await).await;
    let error = a.world.try_check(&text).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable);
    assert!(error.message.contains("changed nothing") && !error.message.contains("request_id"), "{error}");
    assert!(error.retry_after.is_some(), "{error:?}");
}
