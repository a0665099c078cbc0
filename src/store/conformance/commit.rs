//! A commit: atomic, compare-and-set.

use tokio::task::JoinSet;

use super::sample::{self, SECOND, holder};
use super::{Harness, audit_all, done, list_all, log_from_start};
use crate::key::KeyRecord;
use crate::store::{AuditFilter, AuditQuery, Commit, Expect, Outcome, Write, shard_of};

/// A record is read as it was written, by its id and in lists; what was not written is not there.
pub async fn what_was_committed_is_read_back(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let record = ada.record(1, now);
    assert_eq!(store.get(record.id, now).await.unwrap(), None);
    assert_eq!(list_all(&*store, &ada.list(10), now).await, []);

    done(&*store, &sample::create(&record), now).await;
    assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    assert_eq!(store.get(ada.id(2), now).await.unwrap(), None);

    let changed = sample::renamed(&record, "another name");
    done(&*store, &sample::update(&changed), now).await;
    assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&changed));
    assert_eq!(list_all(&*store, &ada.list(10), now).await, [changed]);
}

/// Absent and version are what a write may expect; anything else there is a conflict.
pub async fn a_write_finds_what_it_expects_or_conflicts(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let record = holder("acme", "ada").record(1, now);
    let write =
        |record: &KeyRecord, expects| sample::commit(vec![Write { record: record.clone(), expects, gone_at: None }]);
    let second = sample::renamed(&record, "second");
    let third = sample::renamed(&second, "third");

    let early = store.commit(&write(&second, Expect::Version(1)), now).await.unwrap();
    assert_eq!(early, Outcome::Conflict, "a version where nothing is");
    done(&*store, &write(&record, Expect::Absent), now).await;
    for (expects, what) in [(Expect::Absent, "absent"), (Expect::Version(0), "older"), (Expect::Version(2), "newer")] {
        assert_eq!(store.commit(&write(&second, expects), now).await.unwrap(), Outcome::Conflict, "{what}");
    }
    assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    done(&*store, &write(&second, Expect::Version(1)), now).await;
    let again = store.commit(&write(&second, Expect::Version(1)), now).await.unwrap();
    assert_eq!(again, Outcome::Conflict, "the same commit twice");
    done(&*store, &write(&third, Expect::Version(2)), now).await;
    assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&third));
}

/// One conflicting write among several, wherever it stands, and nothing at all is written.
pub async fn a_commit_is_all_or_nothing(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let shard = shard_of(ada.bucket(), store.shards());
    let existing = ada.record(0, now);
    done(&*store, &sample::create(&existing), now).await;
    let audit = AuditQuery { shard, after: None, newest_first: false, filter: AuditFilter::default(), limit: 100 };
    let (log_before, audit_before) = (log_from_start(&*store, shard).await, audit_all(&*store, &audit).await);

    let new: Vec<_> = (1..=4).map(|n| ada.record(n, now)).collect();
    for at in 0..=new.len() {
        let mut writes: Vec<_> = new.iter().map(sample::creation).collect();
        writes.insert(at, sample::creation(&existing));
        let events = new.iter().map(|record| sample::event(record, crate::key::Action::Created)).collect();
        let idempotency = Some(sample::first_try(7, existing.id, now));
        let commit = Commit { events, idempotency, guard: Some(ada.guard(100)), ..sample::commit(writes) };
        assert_eq!(store.commit(&commit, now).await.unwrap(), Outcome::Conflict, "conflict at {at}");
    }

    for record in &new {
        assert_eq!(store.get(record.id, now).await.unwrap(), None);
    }
    assert_eq!(list_all(&*store, &ada.list(10), now).await, std::slice::from_ref(&existing));
    assert_eq!(list_all(&*store, &ada.list_realm(10), now).await, [existing]);
    assert_eq!(log_from_start(&*store, shard).await, log_before);
    assert_eq!(audit_all(&*store, &audit).await, audit_before);
    // The slot is free, and the living are still one: two more fit under a guard of three.
    let writes = new.iter().take(2).map(sample::creation).collect();
    let idempotency = Some(sample::first_try(7, ada.id(1), now));
    let commit = Commit { idempotency, guard: Some(ada.guard(3)), ..sample::commit(writes) };
    done(&*store, &commit, now).await;
}

/// Writers that race for one record each read, change and commit until they win: every change is
/// kept, and each version is written once.
pub async fn racing_writers_lose_no_update(harness: &dyn Harness) {
    const WRITERS: u32 = 8;
    const CHANGES: u32 = 5;
    let (store, now) = (harness.store(), harness.now());
    let record = holder("acme", "ada").record(1, now);
    done(&*store, &sample::create(&record), now).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, id) = (store.clone(), record.id);
        writers.spawn(async move {
            for change in 0..CHANGES {
                // Each conflict means that another writer got on, so the tries are bounded.
                for attempt in 0..=WRITERS * CHANGES {
                    assert!(attempt < WRITERS * CHANGES, "conflicts without anyone getting on");
                    let read = store.get(id, now).await.unwrap().unwrap().record;
                    let changed = sample::renamed(&read, &format!("{writer} {change}"));
                    match store.commit(&sample::update(&changed), now).await.unwrap() {
                        Outcome::Done(_) => break,
                        Outcome::Conflict => tokio::task::yield_now().await,
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
    }
    while let Some(finished) = writers.join_next().await {
        finished.unwrap();
    }
    let last = store.get(record.id, now.after(SECOND)).await.unwrap().unwrap();
    assert_eq!(last.record.version, u64::from(1 + WRITERS * CHANGES));
}
