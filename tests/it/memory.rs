//! Records answered from memory by one process over the embedded store: what the store is asked, and how what
//! changes gets there. That what was taken away is gone is in `fence`, for every store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyclasp::clock::{Clock, ManualClock, SystemClock, Timestamp};
use keyclasp::key::{Cidrs, Lifetime, Patch};
use keyclasp::random::OsEntropy;
use keyclasp::service::validate::Outcome as Decided;
use keyclasp::store::Store;
use keyclasp::store::embedded::EmbeddedConfig;

use crate::support::meddled::Verb;
use crate::support::world::World;
use crate::support::{TempDir, until};

/// Over an embedded store of its own.
fn world_at(clock: Arc<dyn Clock>) -> (World, TempDir) {
    let dir = TempDir::new();
    let store = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
    (World::over(Arc::new(store), clock), dir)
}

fn world() -> (World, TempDir) {
    world_at(Arc::new(SystemClock::new()))
}

#[tokio::test]
async fn a_key_that_was_checked_is_checked_again_without_the_store_and_without_argon2() {
    let (world, _dir) = world();
    let (_, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let (reads, runs) = (world.store.calls(Verb::Get), world.hasher.argon2_runs());
    for _ in 0..10 {
        assert_eq!(world.check(&text).await, Decided::Valid);
    }
    assert_eq!((world.store.calls(Verb::Get), world.hasher.argon2_runs()), (reads, runs));
}

#[tokio::test]
async fn a_key_that_changed_is_checked_as_it_is_now_without_another_argon2_run() {
    let (world, _dir) = world();
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    world.suspend(id).await;
    assert_eq!(world.check(&text).await, Decided::Suspended);
    world.resume(id).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    // The secret is the same all along: it was hashed to be made, and to be verified once.
    assert_eq!(world.hasher.argon2_runs(), 2);
}

#[tokio::test]
async fn a_wrong_text_for_a_key_in_memory_costs_neither_a_read_nor_an_argon2_run() {
    let (world, _dir) = world();
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let prefix = keyclasp::key::Prefix::parse("kc").unwrap();
    // What only a leaked pepper makes possible: a text with the right tag, for this very id.
    let (forged, _) = world.hasher.make(&prefix, id, &OsEntropy).unwrap();
    let (reads, runs) = (world.store.calls(Verb::Get), world.hasher.argon2_runs());
    for _ in 0..10 {
        assert_eq!(world.check(&forged).await, Decided::Unknown);
    }
    assert_eq!((world.store.calls(Verb::Get), world.hasher.argon2_runs()), (reads, runs));
    assert_eq!(world.check(&text).await, Decided::Valid, "the forgery spoiled what is in memory");
}

#[tokio::test]
async fn many_who_ask_for_a_cold_key_at_once_cost_one_read_and_one_argon2_run() {
    let (world, _dir) = world();
    let world = Arc::new(world);
    let (_, text) = world.key(None).await;
    let runs = world.hasher.argon2_runs();
    let reads = world.store.hold_up(Verb::Get);
    let checks: Vec<_> = (0..100)
        .map(|_| {
            let (world, text) = (Arc::clone(&world), text.clone());
            tokio::spawn(async move { world.check(&text).await })
        })
        .collect();
    reads.one_waits().await;
    // All the others run until they wait for the one that reads.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    reads.let_one_go();
    for check in checks {
        assert_eq!(check.await.unwrap(), Decided::Valid);
    }
    assert_eq!((world.store.calls(Verb::Get), world.hasher.argon2_runs() - runs), (1, 1));
}

#[tokio::test]
async fn who_gives_up_a_read_leaves_it_to_the_others() {
    let (world, _dir) = world();
    let world = Arc::new(world);
    let (_, text) = world.key(None).await;
    let reads = world.store.hold_up(Verb::Get);
    let checks: Vec<_> = (0..2)
        .map(|_| {
            let (world, text) = (Arc::clone(&world), text.clone());
            tokio::spawn(async move { world.check(&text).await })
        })
        .collect();
    let mut checks = checks.into_iter();
    reads.one_waits().await;
    world.store.pass(Verb::Get);
    checks.next().unwrap().abort();
    assert_eq!(checks.next().unwrap().await.unwrap(), Decided::Valid);
}

#[tokio::test]
async fn time_ends_a_key_in_memory_as_it_ends_one_in_the_store() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let (world, _dir) = world_at(Arc::clone(&clock) as Arc<dyn Clock>);
    let (_, text) = world.key(Some(Lifetime::For(Duration::from_secs(60)))).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let reads = world.store.calls(Verb::Get);
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(world.check(&text).await, Decided::Valid);
    clock.advance(Duration::from_millis(1));
    assert_eq!(world.check(&text).await, Decided::Expired);
    assert_eq!(world.store.calls(Verb::Get), reads);
    // And when its record goes, it goes from memory too.
    clock.advance(Duration::from_secs(3600));
    assert_eq!(world.check(&text).await, Decided::Unknown);
}

/// Checks run on several threads while a key is suspended and resumed again and again: no check sees a
/// record that is older than the one that was answered before it began.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_check_is_older_than_the_change_that_was_answered_before_it() {
    const CHANGES: u64 = 400;
    let (world, _dir) = world();
    let world = Arc::new(world);
    let (id, text) = world.key(None).await;
    let answered = Arc::new(AtomicU64::new(1));
    let checkers: Vec<_> = (0..4)
        .map(|_| {
            let (world, text, answered) = (Arc::clone(&world), text.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                loop {
                    let least = answered.load(Ordering::SeqCst);
                    let version = world.version(&text).await;
                    assert!(version >= least, "saw version {version}, though {least} had been answered before");
                    seen.insert(version);
                    if least > CHANGES {
                        return seen.len();
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for change in 1..=CHANGES {
        if change.is_multiple_of(2) {
            world.resume(id).await;
        } else {
            world.suspend(id).await;
        }
        answered.store(change + 1, Ordering::SeqCst);
    }
    for checker in checkers {
        assert!(checker.await.unwrap() > 10, "the checks and the changes ran one after the other");
    }
}

/// Who finds that a change was made already may be answered before the one who made it, and before the store has
/// told of it.
#[tokio::test]
async fn a_change_that_was_found_made_already_is_seen_by_the_next_check() {
    let (world, _dir) = world();
    let world = Arc::new(world);
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let narrow = || {
        let world = Arc::clone(&world);
        async move {
            let allowed_cidrs = Some(Cidrs::parse(&["192.0.2.0/24"]).unwrap());
            let patch = Patch { allowed_cidrs, ..Patch::default() };
            world.service.keys.update(&world.call, id, patch, None).await
        }
    };
    world.store.hold_up_telling();
    let making = tokio::spawn(narrow());
    let now = SystemClock::new().now();
    until("the change can be read", async || world.store.get(id, now).await.unwrap().unwrap().record.version > 1).await;
    assert_eq!(world.check(&text).await, Decided::Valid, "the store has told: nothing is shown");
    // To this one there is nothing to do.
    narrow().await.unwrap();
    assert_ne!(world.check(&text).await, Decided::Valid, "a change that was found made already is not seen");
    assert!(!making.is_finished(), "answered before the store had told of it");
    world.store.tell();
    making.await.unwrap().unwrap();
}

/// After a failure of its file, the store does not know what was written.
#[tokio::test]
async fn when_the_store_has_lost_track_everything_is_read_anew() {
    let (world, _dir) = world();
    let world = Arc::new(world);
    let (_, text) = world.key(None).await;
    let (_, other) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let before = world.store.calls(Verb::Get);
    let reads = world.store.hold_up(Verb::Get);
    let raced = tokio::spawn({
        let (world, other) = (Arc::clone(&world), other.clone());
        async move { world.check(&other).await }
    });
    reads.one_waits().await;
    world.store.pass(Verb::Get);
    world.store.lose_track();
    reads.let_one_go();
    assert_eq!(raced.await.unwrap(), Decided::Valid);
    assert_eq!(world.check(&text).await, Decided::Valid);
    assert_eq!(world.store.calls(Verb::Get), before + 2, "what was in memory is still answered");
    assert_eq!(world.check(&other).await, Decided::Valid);
    assert_eq!(world.store.calls(Verb::Get), before + 3, "what was read before is still answered");
}
