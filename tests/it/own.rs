//! RevokeOwnKey is open to everybody: what it may make the store do, whoever calls it, how often, and however soon
//! they go away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyclasp::clock::{Clock, ManualClock, Timestamp};
use keyclasp::key::{ApiKey, Reason};
use keyclasp::random::OsEntropy;
use keyclasp::service::audit::EventListing;
use keyclasp::service::validate::Outcome;
use keyclasp::service::{Error, ErrorKind, Fence};
use keyclasp::store::Store;
use keyclasp::store::embedded::EmbeddedConfig;

use crate::support::TempDir;
use crate::support::meddled::Verb;
use crate::support::world::World;

/// Over an embedded store of its own, by a clock that stands still.
fn world() -> (Arc<World>, Arc<ManualClock>, TempDir) {
    let dir = TempDir::new();
    let store = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    (Arc::new(World::over(Arc::new(store), Arc::clone(&clock) as Arc<dyn Clock>)), clock, dir)
}

async fn revoke_own(world: &World, text: &ApiKey) -> Result<Fence, Error> {
    world.service.own.revoke(text, Reason::from_static(""), "192.0.2.9", None).await
}

/// The last position of the log: one more for each write.
async fn position(world: &World) -> u64 {
    world.store.log(0, None, 1).await.unwrap().tail
}

/// How many audit events tell of the key.
async fn events(world: &World, id: keyclasp::key::KeyId) -> usize {
    let listing = EventListing {
        realm: None,
        key_id: Some(id),
        owner: None,
        actor: None,
        action: None,
        since: None,
        before: None,
        newest_first: false,
        page_size: 100,
        page_token: String::new(),
    };
    world.service.audit.list(&world.call, &listing).await.unwrap().events.len()
}

#[tokio::test]
async fn many_who_end_one_key_at_once_cost_one_write() {
    let (world, _clock, _dir) = world();
    let (_, text) = world.key(None).await;
    let before = position(&world).await;
    let answers = join_all((0..100).map(|_| revoke_own(&world, &text))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(position(&world).await - before, 1);
    assert_eq!(world.check(&text).await, Outcome::Revoked);
}

#[tokio::test]
async fn ending_a_key_again_writes_once_a_second_and_is_no_news() {
    let (world, clock, _dir) = world();
    let (id, text) = world.key(None).await;
    revoke_own(&world, &text).await.unwrap();
    let (before, told) = (position(&world).await, events(&world, id).await);
    assert_eq!(told, 2, "it was made, and revoked");
    for second in 1..=3 {
        clock.advance(Duration::from_secs(1));
        for _ in 0..20 {
            revoke_own(&world, &text).await.unwrap();
        }
        assert_eq!(position(&world).await - before, second);
    }
    assert_eq!(events(&world, id).await, told);
}

/// Nor does it if the store's answer comes when nobody waits for it any more.
#[tokio::test]
async fn who_does_not_wait_for_the_answer_has_nothing_written_again() {
    let (world, _clock, _dir) = world();
    let (id, text) = world.key(None).await;
    world.revoke(id).await;
    let before = position(&world).await;
    let commits = world.store.hold_up(Verb::Commit);
    for turn in 0..20 {
        let mut call = Box::pin(revoke_own(&world, &text));
        if turn == 0 {
            tokio::select! {
                answer = &mut call => panic!("answered before the store has: {answer:?}"),
                () = commits.one_waits() => {}
            }
        }
        // A deadline ends a call like this.
        tokio::select! {
            biased;
            answer = &mut call => panic!("answered before the store has: {answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    world.store.let_go(Verb::Commit);
    revoke_own(&world, &text).await.unwrap();
    assert_eq!(position(&world).await - before, 1);
}

/// A write of which nobody knows what came of it may have been carried out.
#[tokio::test]
async fn what_was_tried_and_not_answered_is_not_tried_again_at_once() {
    let (world, clock, _dir) = world();
    let (id, text) = world.key(None).await;
    world.revoke(id).await;
    let before = position(&world).await;
    world.store.lose_all(Verb::Commit);
    for _ in 0..20 {
        let error = revoke_own(&world, &text).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::StoreUnavailable);
    }
    assert_eq!(position(&world).await - before, 1);
    world.store.pass(Verb::Commit);
    let error = revoke_own(&world, &text).await.unwrap_err();
    clock.advance(error.retry_after.unwrap());
    revoke_own(&world, &text).await.unwrap();
    assert_eq!(position(&world).await - before, 2);
}
