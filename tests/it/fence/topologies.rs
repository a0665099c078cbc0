//! The suite on each set-up, and what only one of them can show.

use std::collections::BTreeMap;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::key::{ApiKey, KeyId};
use keyclasp::service::validate::Outcome;
use keyclasp::store::redis::{RedisConfig, RedisUrl};

use super::rules::every_key_of_the_realm;
use super::suite::{on, on_leases};
use super::{Fleet, Process, SHARDS};
use crate::support::meddled::Verb;
use crate::support::redis::RedisServer;
use crate::support::until;

mod embedded {
    super::on!(crate::fence::Fleet::embedded);
}

mod standalone {
    super::on!(crate::fence::Fleet::standalone);
    super::on_leases!(crate::fence::Fleet::standalone);
}

mod sharded {
    super::on!(crate::fence::Fleet::sharded);
    super::on_leases!(crate::fence::Fleet::sharded);
}

mod replicated {
    super::on!(crate::fence::Fleet::replicated);
    super::on_leases!(crate::fence::Fleet::replicated);
}

/// A key in each shard, in their order.
async fn one_in_each_shard(process: &Process) -> Vec<(KeyId, ApiKey)> {
    let mut found = BTreeMap::new();
    for n in 0..100 {
        let key = process.world.key_of(&format!("o{n}")).await;
        found.entry(process.shard_of(key.0)).or_insert(key);
        if found.len() == usize::from(SHARDS) {
            return found.into_values().collect();
        }
    }
    panic!("some shard has no key");
}

/// Each shard has members, a log and a fence of its own; what holds up one of them holds up the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_keys_of_a_realm_are_gone_everywhere_in_each_shard() {
    let fleet = Fleet::sharded().await;
    let [a, b, c] = fleet.processes().await;
    let settled = || a.world.records.standings().iter().all(|standing| standing.settled);
    // Else everybody waits for a lease anyway.
    until("the histories are settled", async || settled()).await;
    for behind in (0..SHARDS).rev() {
        let keys = one_in_each_shard(&a).await;
        for process in [&a, &b, &c] {
            process.up_to_date().await;
            for (_, text) in &keys {
                process.warm(text).await;
            }
        }
        b.world.store.hold_up(Verb::LogOf(behind));
        let swept = a.world.service.sweep.revoke(&a.world.call, &every_key_of_the_realm()).await.unwrap();
        for process in [&b, &a, &c] {
            for (id, text) in &keys {
                let shard = a.shard_of(*id);
                assert!(!process.accepts(text).await, "accepted in shard {shard}, {behind} is behind: {swept:?}");
            }
        }
        assert_eq!(swept.fences.len(), usize::from(SHARDS), "{swept:?}");
        for fence in &swept.fences {
            assert_eq!(fence.acknowledged + fence.lapsed, 3, "{swept:?}");
        }
        assert!(swept.fences[usize::from(behind)].lapsed >= 1, "{swept:?}");
        b.world.store.let_go(Verb::LogOf(behind));
        for (_, text) in &keys {
            assert_eq!(b.check(text).await, Outcome::Revoked);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_is_another_history() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    let (_, text) = a.world.key(None).await;
    b.warm(&text).await;
    let before = b.world.records.standings()[0].epoch;
    fleet.primary().run(&["FLUSHALL"]);
    until("the history is another one", async || {
        [&a, &b].into_iter().all(|process| {
            let standing = &process.world.records.standings()[0];
            standing.epoch != before && standing.left.is_some()
        })
    })
    .await;
    assert_eq!(b.check(&text).await, Outcome::Unknown, "what was dropped is still in memory");
    // And the promise holds in the new one.
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    a.world.revoke(id).await;
    assert!(!b.accepts(&text).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_is_another_history_and_loses_nothing_that_was_on_disk() {
    let durable = RedisServer::start_with(&["appendonly", "yes", "appendfsync", "always"]);
    let mut fleet = Fleet::Standalone(durable);
    let [a, b] = fleet.processes().await;
    let (revoked, revoked_text) = a.world.key(None).await;
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    a.world.revoke(revoked).await;
    let Fleet::Standalone(server) = &mut fleet else { panic!("another set-up") };
    server.kill();
    // It goes on from memory for as long as its lease lasts, and not longer.
    until("the lease has ended", async || !b.accepts(&text).await).await;
    let Fleet::Standalone(server) = &mut fleet else { panic!("another set-up") };
    server.start_again();
    assert_eq!(b.check(&text).await, Outcome::Valid);
    assert_eq!(b.check(&revoked_text).await, Outcome::Revoked);
    until("a revocation is answered", async || a.world.try_revoke(id).await.is_ok()).await;
    assert!(!b.accepts(&text).await);
}

/// Somebody who has been cut off from news of the failover goes on with the old primary, which answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_still_answers_makes_nobody_accept() {
    let fleet = Fleet::replicated().await;
    let Fleet::Replicated(servers, proxy) = &fleet else { panic!("another set-up") };
    // Whose address does not move: they are led back to the old one however often they connect.
    let stays = || RedisConfig { url: RedisUrl::parse(&servers.primary.url()).unwrap(), ..fleet.config() };
    let (a, b) = (fleet.join_as(stays()).await, fleet.join_as(stays()).await);
    let (id, text) = a.world.key(None).await;
    b.warm(&text).await;
    servers.replica.run(&["REPLICAOF", "NO", "ONE"]);
    proxy.point_at(servers.replica.port());
    // A replica of the new primary, so that it can have anything confirmed.
    let _third = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", servers.replica.port())]);
    let c = fleet.join().await;
    until("a revocation is answered", async || c.world.try_revoke(id).await.is_ok()).await;
    for process in [&a, &b] {
        assert!(!process.accepts(&text).await, "accepted by way of the old primary");
        let found = process.store.get(id, SystemClock::new().now()).await.unwrap().unwrap();
        assert!(found.record.revocation.is_none(), "the old primary does not answer any more: nothing was shown");
    }
    assert_eq!(c.check(&text).await, Outcome::Revoked);
}
