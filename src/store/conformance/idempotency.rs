//! Idempotency entries: a call that is repeated is answered like the first one.

use tokio::task::JoinSet;

use super::sample::{self, DAY, SECOND, holder};
use super::{Harness, done, log_from_start};
use crate::key::codec::IdempotencyEntry;
use crate::store::{Commit, Effect, Idempotency, Outcome, shard_of};

/// The second first try in a slot is answered with the entry and writes nothing, whatever else it
/// holds: not even a conflict comes before it.
pub async fn a_slot_is_taken_once_and_answers_its_entry(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let (first, second) = (ada.record(1, now), ada.record(2, now));
    let idempotency = sample::first_try(1, first.id, now);
    let commit = Commit { idempotency: Some(idempotency.clone()), ..sample::create(&first) };
    assert_eq!(store.idempotency(ada.bucket(), idempotency.slot, now).await.unwrap(), None);
    done(&*store, &commit, now).await;
    let read = store.idempotency(ada.bucket(), idempotency.slot, now).await.unwrap();
    assert_eq!(read.as_ref(), Some(&idempotency.entry));
    assert_eq!(store.idempotency(ada.bucket(), [2; 32], now).await.unwrap(), None);
    let shard = shard_of(ada.bucket(), store.shards());
    let log = log_from_start(&*store, shard).await;

    let replay = Outcome::Replay(idempotency.entry);
    assert_eq!(store.commit(&commit, now).await.unwrap(), replay, "before the conflict");
    let other = Commit { idempotency: Some(sample::first_try(1, second.id, now)), ..sample::create(&second) };
    assert_eq!(store.commit(&other, now).await.unwrap(), replay, "other content");
    let full = Commit { guard: Some(ada.guard(1)), ..other };
    assert_eq!(store.commit(&full, now).await.unwrap(), replay, "before the guard");
    assert_eq!(store.get(second.id, now).await.unwrap(), None);
    assert_eq!(log_from_start(&*store, shard).await, log);

    let elsewhere = Commit { idempotency: Some(sample::first_try(2, second.id, now)), ..sample::create(&second) };
    done(&*store, &elsewhere, now).await;
}

/// By the `now` that is given, an entry holds until its end and not at it.
pub async fn a_slot_is_free_again_after_its_time(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let idempotency = sample::first_try(1, ada.id(1), now);
    let end = idempotency.entry.expires_at;
    done(&*store, &Commit { idempotency: Some(idempotency.clone()), ..sample::create(&ada.record(1, now)) }, now).await;

    let last_moment = now.after(DAY - std::time::Duration::from_millis(1));
    let again =
        Commit { idempotency: Some(sample::first_try(1, ada.id(2), end)), ..sample::create(&ada.record(2, now)) };
    assert_eq!(store.commit(&again, last_moment).await.unwrap(), Outcome::Replay(idempotency.entry));
    assert!(store.idempotency(ada.bucket(), idempotency.slot, last_moment).await.unwrap().is_some());
    assert_eq!(store.idempotency(ada.bucket(), idempotency.slot, end).await.unwrap(), None);
    done(&*store, &again, end).await;
    let third =
        Commit { idempotency: Some(sample::first_try(1, ada.id(3), end)), ..sample::create(&ada.record(3, now)) };
    let replay = Outcome::Replay(sample::first_try(1, ada.id(2), end).entry);
    assert_eq!(
        store.commit(&third, end.after(SECOND)).await.unwrap(),
        replay,
        "the new entry counts from its own start"
    );
}

/// A replay finds its slot taken and writes all the same: the entry, and the records that it holds.
pub async fn a_replay_writes_again(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let record = ada.record(1, now);
    let first = sample::first_try(1, record.id, now);
    let before = done(&*store, &Commit { idempotency: Some(first.clone()), ..sample::create(&record) }, now).await;

    let again = Idempotency { replay: true, ..first.clone() };
    let written = sample::renamed(&record, "written again");
    let commit = Commit { idempotency: Some(again.clone()), ..sample::update(&written) };
    let after = done(&*store, &commit, now).await;
    assert_eq!((after.epoch, after.position), (before.epoch, before.position + 1));
    assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&written));
    assert_eq!(store.commit(&commit, now).await.unwrap(), Outcome::Conflict, "a replay conflicts like any write");

    let entry = IdempotencyEntry { expires_at: now.after(2 * DAY), ..first.entry };
    let empty = Commit {
        epoch: None,
        bucket: ada.bucket(),
        writes: Vec::new(),
        events: Vec::new(),
        idempotency: Some(Idempotency { entry: entry.clone(), ..again }),
        guard: None,
        effect: Effect::Adds,
    };
    assert_eq!(done(&*store, &empty, now).await, after, "no write, no new position");
    let late =
        Commit { idempotency: Some(sample::first_try(1, ada.id(2), now)), ..sample::create(&ada.record(2, now)) };
    assert_eq!(
        store.commit(&late, now.after(DAY + SECOND)).await.unwrap(),
        Outcome::Replay(entry),
        "the entry was renewed"
    );
}

/// Of many first tries at once, one writes, and the others are told what it wrote.
pub async fn racing_first_tries_write_once(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let mut tries = JoinSet::new();
    for n in 0..16 {
        let (store, record) = (store.clone(), ada.record(n, now));
        let commit = Commit { idempotency: Some(sample::first_try(1, record.id, now)), ..sample::create(&record) };
        tries.spawn(async move { (record.id, store.commit(&commit, now).await.unwrap()) });
    }
    let (mut winners, mut told) = (Vec::new(), Vec::new());
    while let Some(finished) = tries.join_next().await {
        match finished.unwrap() {
            (id, Outcome::Done(_)) => winners.push(id),
            (_, Outcome::Replay(entry)) => told.push(entry.key_id),
            (id, other) => panic!("{id}: {other:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(told, vec![winners[0]; 15]);
    assert_eq!(super::list_all(&*store, &ada.list(100), now).await.len(), 1);
}
