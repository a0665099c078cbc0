//! The owner guard: an exact bound on an owner's living keys.

use tokio::task::JoinSet;

use super::sample::{self, SECOND, holder};
use super::{Harness, done, list_all};
use crate::key::{Actor, KeyRecord, Reason, Suspension, SuspensionReason};
use crate::store::{Commit, Outcome, Write};

/// Revoked and expired keys do not count, suspended ones do, by the `now` that is given.
pub async fn the_guard_counts_living_keys_alone(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let end = now.after(SECOND);
    let note = Suspension { by: Actor::parse("issuer").unwrap(), at: now, until: None, note: Reason::from_static("") };
    let lasting = ada.record(1, now);
    let suspended =
        KeyRecord { suspensions: [(SuspensionReason::Manual, note)].into_iter().collect(), ..ada.record(2, now) };
    let ending = KeyRecord { expires_at: Some(end), ..ada.record(3, now) };
    let guarded = |record: &KeyRecord, max| Commit { guard: Some(ada.guard(max)), ..sample::create(record) };
    for record in [&lasting, &suspended] {
        done(&*store, &guarded(record, 3), now).await;
    }
    // A key that expires stays for a day, so that what ends its count is the expiry alone.
    let write = Write { gone_at: Some(end.after(sample::DAY)), ..sample::creation(&ending) };
    done(&*store, &Commit { guard: Some(ada.guard(3)), ..sample::commit(vec![write]) }, now).await;

    let fourth = ada.record(4, now);
    assert_eq!(store.commit(&guarded(&fourth, 3), now).await.unwrap(), Outcome::OwnerFull);
    assert_eq!(store.get(fourth.id, now).await.unwrap(), None);
    done(&*store, &guarded(&fourth, 3), end).await;
    assert_eq!(store.commit(&guarded(&ada.record(5, now), 3), end).await.unwrap(), Outcome::OwnerFull);

    done(&*store, &sample::update(&sample::revoked(&lasting, end)), end).await;
    done(&*store, &guarded(&ada.record(5, now), 3), end).await;
    assert_eq!(store.commit(&guarded(&ada.record(6, now), 3), end).await.unwrap(), Outcome::OwnerFull);

    // An expired key that is given a later end counts again.
    let prolonged = KeyRecord { expires_at: None, version: 2, ..ending };
    let commit = Commit { guard: Some(ada.guard(3)), ..sample::update(&prolonged) };
    assert_eq!(store.commit(&commit, end).await.unwrap(), Outcome::OwnerFull);
    done(&*store, &Commit { guard: Some(ada.guard(4)), ..commit }, end).await;
}

/// What counts is what is living once the commit is written: a rotation fits where a second key
/// does not, and of two new keys not even one is written where one fits.
pub async fn the_guard_counts_what_the_commit_leaves_behind(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let old = ada.record(1, now);
    done(&*store, &Commit { guard: Some(ada.guard(1)), ..sample::create(&old) }, now).await;
    let pair = vec![sample::creation(&ada.record(2, now)), sample::creation(&ada.record(3, now))];
    let two = Commit { guard: Some(ada.guard(2)), ..sample::commit(pair) };
    assert_eq!(store.commit(&two, now).await.unwrap(), Outcome::OwnerFull);
    assert_eq!(list_all(&*store, &ada.list(10), now).await.len(), 1);

    let rotation = vec![sample::creation(&ada.record(4, now)), sample::change(&sample::revoked(&old, now))];
    done(&*store, &Commit { guard: Some(ada.guard(1)), ..sample::commit(rotation) }, now).await;
    // Another version of a living key is still that one key.
    let renamed = sample::renamed(&ada.record(4, now), "renamed");
    done(&*store, &Commit { guard: Some(ada.guard(1)), ..sample::update(&renamed) }, now).await;
    let none = Commit { guard: Some(ada.guard(0)), ..sample::create(&ada.record(5, now)) };
    assert_eq!(store.commit(&none, now).await.unwrap(), Outcome::OwnerFull);
}

/// Another owner's keys do not count, nor those of the same owner id in another realm.
pub async fn the_guard_is_per_owner_and_realm(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    for holder in [holder("acme", "ada"), holder("acme", "bob"), holder("other", "ada"), holder("acme", "ad")] {
        let guarded = |n| Commit { guard: Some(holder.guard(1)), ..sample::create(&holder.record(n, now)) };
        done(&*store, &guarded(1), now).await;
        assert_eq!(store.commit(&guarded(2), now).await.unwrap(), Outcome::OwnerFull);
    }
}

/// However many create at once, exactly as many get through as fit.
pub async fn racing_creators_never_pass_the_guard(harness: &dyn Harness) {
    const MAX: u32 = 10;
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let mut creators = JoinSet::new();
    for n in 0..4 * MAX {
        let (store, commit) =
            (store.clone(), Commit { guard: Some(ada.guard(MAX)), ..sample::create(&ada.record(n, now)) });
        creators.spawn(async move { store.commit(&commit, now).await.unwrap() });
    }
    let mut written = 0;
    while let Some(finished) = creators.join_next().await {
        match finished.unwrap() {
            Outcome::Done(_) => written += 1,
            Outcome::OwnerFull => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, MAX);
    assert_eq!(list_all(&*store, &ada.list(100), now).await.len(), MAX as usize);
}
